"""The workers of a cluster: which there are, and what each has at hand.

The run itself decides which worker gets which study, so that it knows whom a worker that was lost
takes along. Workers may come and go: studies that a lost one had go to others. One that had begun
at a worker that was lost may be what ended it: after `REPEATS` such ends it counts as lost itself.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass

from distributed import Future

from pipeline.cluster.config import ClusterConfig
from pipeline.cluster.scheduler import Scheduler
from pipeline.cluster.worker import Answer, Broken, Unfit, make_order, prepare, segment_study
from pipeline.cohort import RemoteJob
from pipeline.cohort.child import LENGTH
from pipeline.cohort.events import Began, Event, Lost
from pipeline.errors import PipelineError
from pipeline.journal import Row, Stage, make_private_folder
from pipeline.study import StudyInput

logger = logging.getLogger(__name__)

REMIND_EVERY_S = 60.0
"""How often the log says that there is no worker."""


class Roster:
    """The workers of a run, by address.

    Args:
        patience_s: How long there may be none.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._awaited: set[str] = set()
        self._ready: set[str] = set()
        self._refused: dict[str, str] = {}
        self._dismissed: set[str] = set()
        self._last_seen = self._reminded_at = time.monotonic()

    @property
    def ready(self) -> Collection[str]:
        """Those that can take studies."""
        return self._ready

    def update(self, present: Collection[str]) -> tuple[list[str], list[str]]:
        """Take note of who is there; return those who came and those who are gone."""
        known = self._awaited | self._ready | set(self._refused) | self._dismissed
        came = [worker for worker in present if worker not in known]
        gone = [worker for worker in known if worker not in present]
        self._awaited |= set(came)
        for worker in gone:
            self._forget(worker)
        return came, gone

    @property
    def busy(self) -> Collection[str]:
        """Those that are being prepared."""
        return self._awaited

    def is_awaited(self, worker: str) -> bool:
        """Tell whether a worker is being prepared."""
        return worker in self._awaited

    def accept(self, worker: str) -> None:
        """Take note that a worker is ready."""
        self._awaited.discard(worker)
        self._ready.add(worker)
        logger.info("%d worker%s ready", len(self._ready), "s" * (len(self._ready) > 1))

    def refuse(self, worker: str, reason: str) -> None:
        """Take note that a worker gets no studies."""
        if worker in self._refused:
            return
        self._forget(worker)
        self._refused[worker] = reason
        logger.warning("a worker cannot take part: %s", reason)

    def dismiss(self, worker: str) -> None:
        """Take note that a worker hangs: it gets no studies, but others may come."""
        self._forget(worker)
        self._dismissed.add(worker)

    def check(self) -> None:
        """Raise a `PipelineError` if there is no worker and none can be hoped for."""
        now = time.monotonic()
        if self._ready or self._awaited:
            self._last_seen = self._reminded_at = now
            return
        if self._refused:
            reason = next(reversed(self._refused.values()))
            remedy = "Then run the same command again: it goes on from here."
            raise PipelineError("no worker can take part", reason, remedy)
        if now - self._last_seen > self._patience_s:
            found = f"there has been none for {self._patience_s / 60:.0f} minutes"
            remedy = "Start some and run the same command: it goes on from here."
            raise PipelineError("the cluster's workers", found, remedy)
        if now - self._reminded_at > REMIND_EVERY_S:
            self._reminded_at = now
            logger.warning("no worker yet; waiting for one")

    def _forget(self, worker: str) -> None:
        self._awaited.discard(worker)
        self._ready.discard(worker)
        self._refused.pop(worker, None)
        self._dismissed.discard(worker)


REPEATS = 1
"""How often a study that had begun at a worker that was lost is given to another one."""

LOOK_EVERY_S = 1.0
"""How often the run looks which workers there are."""

CLOSING_S = 90.0
"""That studies may take to be written after the run was stopped."""

_PASSES_S = 5.0
"""That counts at most between two looks: the run itself may have been stopped, and goes on now."""

_RESULT_S = 2.0


@dataclass
class _Task:
    """A study at a worker.

    Attributes:
        study: The study.
        worker: The worker's address.
        future: Of the worker's answer.
        stage: What the worker does with it; None: it waits there.
    """

    study: StudyInput
    worker: str
    future: Future
    stage: Stage | None = None


class DaskWorkers:
    """A cluster's workers, to `run_cohort` what one process on this machine is.

    Args:
        remote: What to do; its folders must be the same on all machines.
        config: The cluster to connect to or to start.
        log_level: Of what the workers log here.
        hung_after_s: Of silence while a worker has something to do, in seconds, after which what it
            holds is given to others; without it never.

    Raises:
        PipelineError: If there is no such cluster.
    """

    def __init__(
        self,
        remote: RemoteJob,
        config: ClusterConfig,
        log_level: int,
        hung_after_s: float = math.inf,
    ) -> None:
        self._hung_after_s = hung_after_s
        self._silent_s: dict[str, float] = {}
        self._roster = Roster(60 * config.patience_minutes)
        self._waiting: deque[StudyInput] = deque()
        self._tasks: dict[str, _Task] = {}
        self._num_ends: dict[str, int] = {}
        self._looked_at = time.monotonic() - LOOK_EVERY_S
        self._scheduler = Scheduler(config, make_private_folder(remote.request.out))
        self._order = make_order(
            self._scheduler.run, self._scheduler.witness, remote, config, log_level
        )

    @property
    def capacity(self) -> int:
        """How many studies it takes at once: more when there are more workers."""
        return LENGTH * max(1, len(self._roster.ready))

    def give(self, study: StudyInput) -> None:
        """Take one more study."""
        self._waiting.append(study)

    def wait(self) -> Sequence[Event]:
        """Return what happened.

        Raises:
            PipelineError: If the scheduler is gone, or no worker can do what is asked for.
        """
        events: list[Event] = []
        with self._scheduler.watched():
            self._look(events)
            self._assign()
            self._receive(events)
        return events

    def close(self) -> Sequence[Event]:
        """Let studies that are being written be finished, drop the others, and end."""
        events: list[Event] = []
        try:
            with suppress(PipelineError), self._scheduler.watched():
                self._stop(events)
        finally:
            self._scheduler.close()
        return [event for event in events if isinstance(event, Row)]

    def _look(self, events: list[Event]) -> None:
        """See which workers came and which are gone."""
        if time.monotonic() - self._looked_at < LOOK_EVERY_S:
            return
        passed_s = min(time.monotonic() - self._looked_at, _PASSES_S)
        self._looked_at = time.monotonic()
        came, gone = self._roster.update(self._scheduler.workers())
        for worker in gone:
            self._lose_worker(worker, "the worker process ended", events)
        for worker in came:
            self._scheduler.ask(worker, worker, prepare, self._order)
        self._listen(passed_s, events)
        self._roster.check()

    def _listen(self, passed_s: float, events: list[Event]) -> None:
        """Give what workers hold to others if nothing is heard of them for too long."""
        busy = {task.worker for task in self._tasks.values()} | set(self._roster.busy)
        self._silent_s = {each: self._silent_s.get(each, 0.0) + passed_s for each in busy}
        for worker in [each for each in busy if self._silent_s[each] > self._hung_after_s]:
            minutes = f"{self._hung_after_s / 60:.3g} minutes"
            name = f"the worker at {worker.rpartition('://')[2]}"
            logger.warning("%s says nothing for %s: its studies go to others", name, minutes)
            self._roster.dismiss(worker)
            self._scheduler.drop(worker)
            self._lose_worker(worker, f"nothing was heard from {name} for {minutes}", events)

    def _assign(self) -> None:
        """Send waiting studies to the workers that have least to do."""
        load = dict.fromkeys(self._roster.ready, 0)
        for task in self._tasks.values():
            if task.worker in load:
                load[task.worker] += 1
        while self._waiting and load:
            worker = min(load, key=lambda each: load[each])
            if load[worker] >= LENGTH:
                return
            load[worker] += 1
            self._send(self._waiting.popleft(), worker)

    def _send(self, study: StudyInput, worker: str) -> None:
        # A worker has another working directory.
        study = study.absolute()
        is_there = all(path.exists() for path in study.files())
        future = self._scheduler.ask(
            worker, study.case, segment_study, self._order, study, is_there=is_there
        )
        self._tasks[study.case] = _Task(study, worker, future)

    def _receive(self, events: list[Event]) -> None:
        """Handle what workers report and answer."""
        for message in self._scheduler.messages():
            match message:
                case {"case": case, "stage": stage}:
                    if case in self._tasks:
                        self._silent_s[self._tasks[case].worker] = 0.0
                        self._tasks[case].stage = stage
                        events.append(Began(case, stage))
                case {"alive": worker}:
                    self._silent_s[worker] = 0.0
                case {"logger": name, "level": level, "text": text}:
                    extra = {"is_written": True}
                    logging.getLogger(name).log(level, "%s", text, extra=extra)
                case (name, future):
                    self._take(name, future, events)

    def _take(self, name: str, future: Future, events: list[Event]) -> None:
        """Take the answer of a worker to its preparation or to a study, unless it is outdated."""
        task = self._tasks.get(name)
        is_current = self._roster.is_awaited(name) if task is None else task.future is future
        if not is_current or future.cancelled():
            return
        try:
            error = future.exception(timeout=_RESULT_S)
            answer = None if error else future.result(timeout=_RESULT_S)
        except TimeoutError:
            # If the worker has ended just now, looking at the workers will tell.
            self._scheduler.ask_again(name, future)
            return
        if task is None:
            self._silent_s[name] = 0.0
            self._take_preparation(name, answer, error)
        else:
            self._silent_s[task.worker] = 0.0
            del self._tasks[name]
            self._take_answer(task, answer, error, events)

    def _take_preparation(
        self, worker: str, answer: Unfit | None, error: BaseException | None
    ) -> None:
        if error is not None:
            found = f"it cannot do what Trivox asks for ({type(error).__name__}: {error})"
            remedy = f"Install Trivox {self._order.version} there and where the scheduler is."
            self._roster.refuse(worker, f"worker at {_host(worker)}: {found}. {remedy}")
        elif answer is not None:
            self._roster.refuse(worker, answer.reason)
        else:
            self._roster.accept(worker)

    def _take_answer(
        self, task: _Task, answer: Answer, error: BaseException | None, events: list[Event]
    ) -> None:
        if error is not None:
            answer = Broken(f"the worker process ended or broke ({type(error).__name__})")
        match answer:
            case Row():
                events.append(answer)
            case Broken(reason):
                self._lose(task, reason, events, is_suspect=True)
            case Unfit(reason):
                self._roster.refuse(task.worker, reason)
                self._waiting.appendleft(task.study)
            case None:
                self._waiting.appendleft(task.study)

    def _lose_worker(self, worker: str, reason: str, events: list[Event]) -> None:
        lost = [task for task in self._tasks.values() if task.worker == worker]
        # What ends a worker at once may leave it no time to say what it began.
        is_unheard = all(task.stage is None for task in lost)
        for task in lost:
            del self._tasks[task.study.case]
            task.future.cancel()
            self._lose(task, reason, events, is_suspect=is_unheard or task.stage is not None)

    def _lose(self, task: _Task, reason: str, events: list[Event], *, is_suspect: bool) -> None:
        """Give a study to another worker, unless it may be what ends them."""
        case = task.study.case
        if is_suspect:
            self._num_ends[case] = self._num_ends.get(case, 0) + 1
        if self._num_ends.get(case, 0) > REPEATS:
            del self._num_ends[case]
            events.append(Lost((case,), f"{reason} {REPEATS + 1} times"))
        else:
            self._waiting.append(task.study)

    def _stop(self, events: list[Event]) -> None:
        self._waiting.clear()
        for case, task in list(self._tasks.items()):
            if task.stage != "write":
                del self._tasks[case]
                task.future.cancel()
        deadline = time.monotonic() + CLOSING_S
        while self._tasks and time.monotonic() < deadline:
            self._look(events)
            self._receive(events)


def _host(address: str) -> str:
    return address.partition("://")[2].rpartition(":")[0] or address
