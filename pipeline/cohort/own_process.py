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

from pipeline.cohort.child import CLOSED, LENGTH, READY, STOP, Line, Message, work
from pipeline.cohort.events import Event, Lost
from pipeline.cohort.request import Job, RemoteJob
from pipeline.errors import PipelineError
from pipeline.journal import Row
from pipeline.study.input import StudyInput
from pipeline.system.processes import unheard_by_children, worker_context


class Here:
    """Workers without a process of their own: what ends this process ends the cohort's run.

    Args:
        job: What the studies share.
    """

    capacity = LENGTH

    def __init__(self, job: Job) -> None:
        self._events: list[Event] = []
        self._line = Line(job, self._events.append)

    def give(self, study: StudyInput) -> None:
        """Take one more study."""
        self._line.give(study)

    def wait(self) -> Sequence[Event]:
        """Bring the studies one step further."""
        self._line.step()
        return self._take()

    def close(self) -> Sequence[Event]:
        """Finish what is being written."""
        self._line.close()
        return self._take()

    def _take(self) -> Sequence[Event]:
        taken = self._events[:]
        del self._events[: len(taken)]
        return taken


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
        name: In front of what it logs, where there are several.

    Attributes:
        connection: Its pipe, through which it says what happens.
    """

    capacity = LENGTH

    def __init__(
        self, remote: RemoteJob, log_level: int, hung_after_s: float = math.inf, name: str = ""
    ) -> None:
        self._remote, self._log_level, self._hung_after_s = remote, log_level, hung_after_s
        self._name = name
        self._silent_s = 0.0
        self._given: dict[str, StudyInput] = {}
        self._is_ready, self._spare_starts, self._last_words = False, 0, ""
        self._start()

    def give(self, study: StudyInput) -> None:
        """Take one more study."""
        self._given[study.case] = study
        self._send(study)

    @property
    def in_hand(self) -> Sequence[StudyInput]:
        """Studies that it was given and that have not ended."""
        return tuple(self._given.values())

    def wait(self) -> Sequence[Event]:
        """Return what happened.

        Raises:
            PipelineError: If the process cannot be started: the model does not load, for example.
        """
        return self.look(wait_for([self.connection]))

    def look(self, passed_s: float) -> Sequence[Event]:
        """Return what happened, without waiting for it.

        Args:
            passed_s: Since the last look, in seconds.

        Raises:
            PipelineError: As `wait` does.
        """
        events, is_over = self._read(passed_s)
        if is_over:
            self._process.join()
            reason = self._last_words or _why(self._process.exitcode)
            return [*events, *self._restart(reason)]
        if self._silent_s < self._hung_after_s:
            return events
        self._process.kill()
        self._process.join(_KILL_S)
        # It may have said something at the last moment.
        events, _ = self._read(0.0)
        minutes = self._hung_after_s / 60
        reason = f"nothing was heard from the worker process for {minutes:.3g} minutes"
        return [*events, *self._restart(reason)]

    def close(self) -> Sequence[Event]:
        """Let the process finish what it is writing, and end it."""
        try:
            self.stop()
            return self.finish(time.monotonic() + CLOSING_S)
        finally:
            self.end()

    def stop(self) -> None:
        """Tell the process to finish what it is writing."""
        with suppress(OSError):
            self.connection.send(STOP)

    def finish(self, deadline: float) -> Sequence[Event]:
        """Return what happens until the process has stopped, or until a time by the clock."""
        events: list[Event] = []
        is_over = False
        while not is_over and time.monotonic() < deadline:
            wait_for([self.connection])
            with suppress(PipelineError):
                found, is_over = self._read(0.0)
                events += found
        self._process.join(1)
        return events

    def end(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.join()

    def _start(self) -> None:
        context = worker_context()
        self.connection, theirs = context.Pipe()
        arguments = (self._remote, theirs, self._log_level)
        # Not a daemon: it ends by itself when this end of the pipe is closed.
        self._process = context.Process(target=work, args=arguments)  # type: ignore[attr-defined]
        with unheard_by_children():
            self._process.start()
        theirs.close()
        self._silent_s, self._last_words = 0.0, ""

    def _send(self, study: StudyInput) -> None:
        # If the process is gone, waiting for it will tell.
        with suppress(OSError):
            self.connection.send(study)

    def _read(self, passed_s: float) -> tuple[list[Event], bool]:
        """Return what came through the pipe, and whether it is closed."""
        events: list[Event] = []
        is_heard = bool(connection.wait([self.connection], timeout=0))
        self._silent_s = 0.0 if is_heard or not self._given else self._silent_s + passed_s
        try:
            while self.connection.poll():
                message: Message = self.connection.recv()
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
            if self._name:
                message.msg = f"{self._name}: {message.msg}"
            logging.getLogger(message.name).handle(message)
        elif isinstance(message, Lost):
            # What it had in hand is known here.
            self._last_words = message.reason
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


def wait_for(connections: Sequence[connection.Connection]) -> float:
    """Wait until one of some processes says something, a second at most; return how long it took.

    Not by the clock alone: all processes may have been stopped meanwhile, and go on now.
    """
    began = time.monotonic()
    connection.wait(connections, timeout=POLL_S)
    return min(time.monotonic() - began, POLL_S)


def _why(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f"the worker process ended with code {exit_code}"
    name = signal.Signals(-exit_code).name
    if name == "SIGKILL":
        return "the worker process was killed (SIGKILL), as the system does where memory runs out"
    return f"the worker process crashed ({name})"
