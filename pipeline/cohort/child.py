"""The process that segments: three studies at a time, each at another stage.

While one study is segmented, the next one is loaded and the last one is written. With a GPU the
last one is cleaned beside it, too.

It gets studies through a pipe and says through it what happens. When the process that started it
is gone, however it ended, so is this one.
"""

import contextlib
import logging
import os
import queue
import signal
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal, TypeAlias

import torch

from pipeline.cohort.events import SHOWN_STEPS, Alive, Began, Event, Lost, Steps
from pipeline.cohort.request import Job, RemoteJob
from pipeline.cohort.stages import (
    Loaded,
    Predicted,
    Segmented,
    conclude,
    load,
    predict,
    segment,
    write,
)
from pipeline.errors import PipelineError
from pipeline.inference import failure_of
from pipeline.journal import Row
from pipeline.study import extent_of
from pipeline.study.input import StudyInput
from pipeline.system.optional import leave_optional_out
from pipeline.system.processes import STOPPING
from pipeline.system.spelling import LogFormatter, show_safely

logger = logging.getLogger(__name__)

LENGTH = 3
"""Studies that a line works on at once."""


class Line:
    """Studies in, rows out.

    Args:
        job: What the studies share.
        report: Called with all that happens, also by other threads.
    """

    def __init__(self, job: Job, report: Callable[[Event], None]) -> None:
        self._job = replace(job, alive=lambda: report(Alive()))
        self._report = report
        self._waiting: deque[StudyInput] = deque()
        self._loader = ThreadPoolExecutor(1, "load")
        self._writer = ThreadPoolExecutor(1, "write")
        self._loading: dict[str, Future[Loaded | Row]] = {}
        self._writing: Future[None] | None = None
        self._written_bytes = 0

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._waiting and self._writing is None

    def give(self, study: StudyInput) -> None:
        """Take one more study."""
        self._waiting.append(study)

    def step(self) -> None:
        """Bring one more study to the point where it is being written, or finish the last one."""
        if not self._waiting:
            self._finish_writing()
            return
        study = self._waiting[0]
        loaded = self._load(study).result()
        del self._loading[study.case]
        self._waiting.popleft()
        result: Predicted | Segmented | Row = (
            loaded if isinstance(loaded, Row) else self._segment(study, loaded)
        )
        del loaded
        self._finish_writing()
        if isinstance(result, Row):
            self._report(result)
            return
        self._written_bytes = result.held_bytes
        if isinstance(result, Segmented):
            self._writing = self._writer.submit(self._write, result)
        else:
            self._writing = self._writer.submit(self._conclude, result)

    def close(self) -> None:
        """Finish what is being written, and drop the rest."""
        self._loader.shutdown(cancel_futures=True)
        self._finish_writing()
        self._writer.shutdown()

    def _segment(self, study: StudyInput, loaded: Loaded) -> Predicted | Segmented | Row:
        """Segment a study, and load the next one meanwhile if both fit in memory."""
        following = self._waiting[0] if self._waiting else None
        elsewhere = self._written_bytes + self._bytes_to_load(following)
        if not self._job.segmenter.fits(loaded.prepared, elsewhere):
            self._finish_writing()
            elsewhere = 0
        elif following is not None:
            self._load(following)
        self._report(Began(study.case, "segment"))
        stage = predict if self._job.segmenter.cleans_aside else segment
        return stage(loaded, self._job, elsewhere, self._show)

    def _load(self, study: StudyInput) -> Future[Loaded | Row]:
        if study.case not in self._loading:
            self._report(Began(study.case, "load"))
            self._loading[study.case] = self._loader.submit(load, study, self._job)
        return self._loading[study.case]

    def _bytes_to_load(self, study: StudyInput | None) -> int:
        if study is None or study.refusal is not None:
            return 0
        try:
            return self._job.segmenter.loading_bytes(*extent_of(study.sources))
        except Exception:
            # Whatever is wrong with the next study ends neither this one nor the process.
            logger.debug("%s cannot be looked at", study.case, exc_info=True)
            return 0

    def _conclude(self, predicted: Predicted) -> None:
        segmented = conclude(predicted, self._job)
        if isinstance(segmented, Row):
            self._report(segmented)
        else:
            self._write(segmented)

    def _write(self, segmented: Segmented) -> None:
        self._report(Began(segmented.input.case, "write"))
        self._report(write(segmented, self._job))

    def _finish_writing(self) -> None:
        if self._writing is not None:
            self._writing.result()
            self._writing, self._written_bytes = None, 0

    def _show(self, what: str, done: int, total: int) -> None:
        self._report(Steps(what, done, total))


READY: Literal["ready"] = "ready"
CLOSED: Literal["closed"] = "closed"
STOP = None
"""Sent instead of a study: finish what is being written, and end."""

Message: TypeAlias = Event | logging.LogRecord | PipelineError | Literal["ready", "closed"]

_OOM_SCORE = 500
"""Of 1000: the kernel, out of memory, should end this process rather than the one above it."""


def work(remote: RemoteJob, connection: Connection, log_level: int) -> None:
    """Segment what comes through the connection until it is told to stop."""
    _stand_alone()
    child = _Child(connection)
    _forward_logs(child, log_level)
    try:
        job = remote.make()
    except PipelineError as error:
        child.send(error)
        return
    child.send(READY)
    line = Line(job, partial(_report, child, job.segmenter.device))
    with contextlib.suppress(KeyboardInterrupt):
        while child.take(line):
            line.step()
    line.close()
    child.send(CLOSED)


def _report(child: "_Child", device: torch.device, event: Event) -> None:
    """Say what happened; where a study failed since its device did, end instead.

    Nothing else could be computed in this process, and the study is not to blame.
    """
    if isinstance(event, Row) and event.status == "failed" and (failure := failure_of(device)):
        child.send(Lost((), f"{device} failed: {failure}"))
        os._exit(1)
    child.report(event)


class _Child:
    """The child's end of the pipe."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._inbox: queue.SimpleQueue[StudyInput | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def send(self, message: Message) -> None:
        """Say something; threads take turns."""
        with self._sending:
            self._connection.send(message)

    def report(self, event: Event) -> None:
        """Say what happened; leave the study in hand if it is time to stop."""
        if isinstance(event, Steps):
            if self._stopping.is_set():
                raise KeyboardInterrupt
            if event.total < SHOWN_STEPS:
                event = Alive()
        self.send(event)

    def take(self, line: Line) -> bool:
        """Hand on the studies that came, waiting for one if there is nothing else to do."""
        if self._stopping.is_set():
            return False
        try:
            while True:
                study = self._inbox.get(block=line.is_idle)
                if study is STOP:
                    return False
                line.give(study)
        except queue.Empty:
            return True

    def _listen(self) -> None:
        """Put into the inbox what comes, at once, so that the end of the parent is seen at once."""
        try:
            while (study := self._connection.recv()) is not STOP:
                self._inbox.put(study)
        except (EOFError, OSError):
            # Nobody is there to tell the outcome; nothing half-written looks finished.
            os._exit(1)
        self._stopping.set()
        self._inbox.put(STOP)


class _Forward(logging.Handler):
    """Send log records to the parent, whose console they belong on."""

    def __init__(self, child: _Child) -> None:
        super().__init__()
        self._child = child
        self.setFormatter(LogFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record, as text."""
        record.msg, record.args = self.format(record), None
        record.is_written = True
        record.exc_info = record.exc_text = record.stack_info = None
        with contextlib.suppress(OSError, ValueError):
            self._child.send(record)


def _forward_logs(child: _Child, level: int) -> None:
    root = logging.getLogger()
    root.handlers = [_Forward(child)]
    root.setLevel(logging.WARNING)
    logging.getLogger("pipeline").setLevel(level)


def _stand_alone() -> None:
    """Leave it to the parent to react to Ctrl-C, and to what schedulers and terminals send."""
    leave_optional_out()
    show_safely()
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE), encoding="ascii")
