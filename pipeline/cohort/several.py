"""Segment in several processes of this machine, each on a device of its own.

A study goes to the process that has least to do. One whose process ended before it did is tried
once more, alone, on another device if there is one. A device on which the model cannot be loaded,
or on which process after process ends and no study is done, is left out; the others go on with what
it had in hand. The last one stays, as the only one of a run does, until it cannot load the model.
"""

import logging
import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from pipeline.cohort.events import Began, Event, Lost, Steps
from pipeline.cohort.own_process import CLOSING_S, OwnProcess, wait_for
from pipeline.cohort.request import RemoteJob
from pipeline.errors import PipelineError
from pipeline.journal import Row
from pipeline.study.input import StudyInput

logger = logging.getLogger(__name__)

MAX_ENDS = 3
"""Processes that may end on a device, one after the other, and no study is done between them."""


@dataclass(eq=False)
class _Worker:
    """A device and the process that computes on it.

    Attributes:
        device: Its name.
        process: One process, or its successor.
        num_ends: Of processes, since a study was done.
        reason: Of the last end.
    """

    device: str
    process: OwnProcess
    num_ends: int = 0
    reason: str = ""


class SeveralProcesses:
    """Processes that segment side by side, to a run what one of them is.

    Args:
        remotes: What to do, once for each device.
        log_level: Of what the processes log here.
        hung_after_s: Of silence while a process has something to do, in seconds, after which it is
            ended; without it never.
    """

    def __init__(
        self, remotes: Sequence[RemoteJob], log_level: int, hung_after_s: float = math.inf
    ) -> None:
        self._workers = [
            _Worker(each.device, OwnProcess(each, log_level, hung_after_s, each.device))
            for each in remotes
        ]
        self._left_out: list[tuple[str, PipelineError]] = []
        self._lost_by: dict[str, _Worker] = {}

    @property
    def capacity(self) -> int:
        """How many studies they take at once: fewer when a device is left out."""
        return sum(each.process.capacity for each in self._workers)

    def give(self, study: StudyInput) -> None:
        """Take one more study."""
        before = self._lost_by.get(study.case)
        others = [each for each in self._workers if each is not before] or self._workers
        min(others, key=lambda each: len(each.process.in_hand)).process.give(study)

    def wait(self) -> Sequence[Event]:
        """Return what happened.

        Raises:
            PipelineError: If no device is left that the model can be loaded on.
        """
        passed_s = wait_for([each.process.connection for each in self._workers])
        events: list[Event] = []
        for worker in tuple(self._workers):
            try:
                found = worker.process.look(passed_s)
            except PipelineError as error:
                self._leave_out(worker, error)
                continue
            events += [self._take(event, worker) for event in found]
            # The last one stays: studies, not devices, end the processes of those that are sound.
            if worker.num_ends >= MAX_ENDS and len(self._workers) > 1:
                self._leave_out(worker, _unsound(worker))
        return events

    def close(self) -> Sequence[Event]:
        """Let the processes finish what they are writing, and end them."""
        events: list[Event] = []
        deadline = time.monotonic() + CLOSING_S
        with ExitStack() as stack:
            for worker in self._workers:
                stack.callback(worker.process.end)
            for worker in self._workers:
                worker.process.stop()
            for worker in self._workers:
                found = worker.process.finish(deadline)
                events += [self._take(event, worker) for event in found]
        return events

    def _take(self, event: Event, worker: _Worker) -> Event:
        """Note what an event says of its device, and return it with the device's name."""
        match event:
            case Began():
                return replace(event, device=worker.device)
            case Steps():
                return replace(event, what=f"{event.what} on {worker.device}")
            case Row() if event.has_mask:
                worker.num_ends = 0
            case Lost(cases, reason):
                worker.num_ends, worker.reason = worker.num_ends + 1, reason
                self._lost_by |= dict.fromkeys(cases, worker)
        return event

    def _leave_out(self, worker: _Worker, error: PipelineError) -> None:
        """Go on without a device; what it has in hand goes to the others."""
        self._workers.remove(worker)
        worker.process.end()
        self._left_out.append((worker.device, error))
        if not self._workers:
            raise self._none_left()
        logger.warning("%s is left out from now on: %s", worker.device, error)
        for study in worker.process.in_hand:
            self.give(study)

    def _none_left(self) -> PipelineError:
        reasons = [str(error) for _, error in self._left_out]
        if len(set(reasons)) == 1:
            # It is no matter of the devices.
            return self._left_out[0][1]
        found = "none can be used: "
        found += "; ".join(f"{device}: {error}" for device, error in self._left_out)
        return PipelineError("devices", found, "Then run the same command again.")


def _unsound(worker: _Worker) -> PipelineError:
    found = f"its process ended {worker.num_ends} times and no study was done meanwhile, at last: "
    remedy = "See what `nvidia-smi` says of it."
    return PipelineError(worker.device, f"{found}{worker.reason}", remedy)
