"""The process that segments: a study that exhausts memory or crashes takes this one with it only.

It gets studies through a pipe and says through it what happens. When the process that started it
is gone, however it ended, so is this one.
"""

import contextlib
import logging
import os
import queue
import signal
import threading
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal, TypeAlias

import torch

from pipeline.cohort.events import SHOWN_STEPS, Alive, Event, Lost, Steps
from pipeline.cohort.line import Line
from pipeline.cohort.request import RemoteJob
from pipeline.cohort.study_input import StudyInput
from pipeline.errors import PipelineError
from pipeline.inference import failure_of
from pipeline.journal import Row
from pipeline.optional import leave_optional_out
from pipeline.processes import STOPPING
from pipeline.spelling import LogFormatter, show_safely

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
