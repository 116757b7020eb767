"""Segment in a process of its own, and start another one when it ends before its time, or hangs.

A process hangs if it has something to do and says nothing for long. Then each study that it had in
hand is tried once more, alone: which of them is to blame cannot be seen, since one is read, one
segmented and one written at the same time.
"""

import logging
import math
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import connection

from pipeline.cohort.child import CLOSED, READY, STOP, Message, work
from pipeline.cohort.events import Event, Lost
from pipeline.cohort.line import LENGTH
from pipeline.cohort.request import RemoteJob
from pipeline.cohort.study_input import StudyInput
from pipeline.errors import PipelineError
from pipeline.journal import Row
from pipeline.processes import unheard_by_children, worker_context

CLOSING_S = 120.0
"""That a study may take to be written after the run was stopped."""

POLL_S = 1.0
_KILL_S = 10.0
"""That the system may take to end a process that was killed."""

SPARE_STARTS = 2
"""That may fail once the model was loaded: memory that was there before may come back."""


class OwnProcess:
    """One process that segments; whatever ends it, the run goes on with another one.

    Args:
        remote: What to do.
        log_level: Of what the process logs here.
        hung_after_s: Of silence while it has something to do, in seconds, after which it is ended;
            without it never.
    """

    capacity = LENGTH

    def __init__(self, remote: RemoteJob, log_level: int, hung_after_s: float = math.inf) -> None:
        self._remote, self._log_level, self._hung_after_s = remote, log_level, hung_after_s
        self._silent_s = 0.0
        self._given: dict[str, StudyInput] = {}
        self._is_ready, self._spare_starts = False, 0
        self._start()

    def give(self, study: StudyInput) -> None:
        """Take one more study."""
        self._given[study.case] = study
        self._send(study)

    def wait(self) -> Sequence[Event]:
        """Return what happened.

        Raises:
            PipelineError: If the process cannot be started: the model does not load, for example.
        """
        events, is_over = self._read()
        if is_over:
            self._process.join()
            return [*events, *self._restart(_why(self._process.exitcode))]
        if self._silent_s < self._hung_after_s:
            return events
        self._process.kill()
        self._process.join(_KILL_S)
        # It may have said something at the last moment.
        events, _ = self._read()
        minutes = self._hung_after_s / 60
        reason = f"nothing was heard from the worker process for {minutes:.3g} minutes"
        return [*events, *self._restart(reason)]

    def close(self) -> Sequence[Event]:
        """Let the process finish what it is writing, and end it."""
        with suppress(OSError):
            self._connection.send(STOP)
        events: list[Event] = []
        deadline = time.monotonic() + CLOSING_S
        is_over = False
        try:
            while not is_over and time.monotonic() < deadline:
                with suppress(PipelineError):
                    found, is_over = self._read()
                    events += found
            self._process.join(1)
        finally:
            self._process.kill()
            self._process.join()
        return events

    def _start(self) -> None:
        context = worker_context()
        self._connection, theirs = context.Pipe()
        arguments = (self._remote, theirs, self._log_level)
        # Not a daemon: it ends by itself when this end of the pipe is closed.
        self._process = context.Process(target=work, args=arguments)  # type: ignore[attr-defined]
        with unheard_by_children():
            self._process.start()
        theirs.close()
        self._silent_s = 0.0

    def _send(self, study: StudyInput) -> None:
        # If the process is gone, waiting for it will tell.
        with suppress(OSError):
            self._connection.send(study)

    def _read(self) -> tuple[list[Event], bool]:
        """Return what came through the pipe, waiting for something, and whether it is closed."""
        events: list[Event] = []
        if connection.wait([self._connection], timeout=POLL_S) or not self._given:
            self._silent_s = 0.0
        else:
            # Not by the clock: both processes may have been stopped, and go on now.
            self._silent_s += POLL_S
        try:
            while self._connection.poll():
                message: Message = self._connection.recv()
                if message == CLOSED:
                    return events, True
                self._receive(message, events)
        except (EOFError, OSError):
            return events, True
        return events, False

    def _receive(self, message: Message, events: list[Event]) -> None:
        if isinstance(message, PipelineError):
            raise message
        if isinstance(message, logging.LogRecord):
            logging.getLogger(message.name).handle(message)
        elif message == READY:
            self._is_ready, self._spare_starts = True, SPARE_STARTS
        else:
            assert not isinstance(message, str)
            if isinstance(message, Row):
                del self._given[message.case]
            events.append(message)

    def _restart(self, reason: str) -> list[Event]:
        """Start another process after one that ended, and say what that one had in hand."""
        if self._is_ready:
            lost = [Lost(tuple(self._given), reason)]
            self._given.clear()
            self._is_ready = False
            self._start()
            return [*lost]
        if self._spare_starts == 0:
            remedy = "Free memory or choose another --device, and run again."
            raise PipelineError("the worker process", f"could not load the model: {reason}", remedy)
        # It had begun no study, so none is to blame.
        self._spare_starts -= 1
        self._start()
        for study in self._given.values():
            self._send(study)
        return []


def _why(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f"the worker process ended with code {exit_code}"
    name = signal.Signals(-exit_code).name
    if name == "SIGKILL":
        return "the worker process was killed (SIGKILL), as the system does where memory runs out"
    return f"the worker process crashed ({name})"
