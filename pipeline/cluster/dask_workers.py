"""The workers of a cluster: each holds one warm model, and has a few studies at hand.

The run itself decides which worker gets which study, so that it knows whom a worker that was lost
takes along. Workers may come and go: studies that a lost one had go to others. One that had begun
at a worker that was lost may be what ended it: after `REPEATS` such ends it counts as lost itself.
"""

import logging
import queue
import time
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from distributed import Future

from pipeline.cluster.config import AddressConfig, ClusterConfig, LocalConfig
from pipeline.cluster.connect import connect
from pipeline.cluster.order import Answer, Broken, Order, Unfit
from pipeline.cluster.roster import Roster
from pipeline.cluster.station import prepare, release, segment_study
from pipeline.cohort import RemoteJob, StudyInput
from pipeline.cohort.events import Began, Event, Lost
from pipeline.cohort.line import LENGTH
from pipeline.errors import PipelineError
from pipeline.journal import PRIVATE, Row, Stage
from pipeline.main_memory import available_bytes

logger = logging.getLogger(__name__)

REPEATS = 1
"""How often a study that had begun at a worker that was lost is given to another one."""

LOOK_EVERY_S = 1.0
"""How often the run looks which workers there are."""

CLOSING_S = 120.0
"""That studies may take to be written after the run was stopped."""

_RESULT_S = 10.0
_OF_MEMORY = 0.9
"""Of what a worker may take; at 95 % it is ended."""


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

    Raises:
        PipelineError: If there is no such cluster.
    """

    def __init__(self, remote: RemoteJob, config: ClusterConfig, log_level: int) -> None:
        run = f"trivox-{uuid.uuid4().hex}"
        private = remote.request.out / PRIVATE
        witness = private / run
        remote = _within_memory(remote, config)
        num_gpus = config.gpus if isinstance(config, LocalConfig) else 0
        self._order = Order(run, remote, witness, config.threads, num_gpus, log_level)
        self._waiting: deque[StudyInput] = deque()
        self._tasks: dict[str, _Task] = {}
        self._num_ends: dict[str, int] = {}
        self._num_given = 0
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._looked_at = 0.0
        with ExitStack() as stack:
            witness.touch(mode=0o600)
            stack.callback(witness.unlink, missing_ok=True)
            self._client = stack.enter_context(connect(config, private))
            with self._scheduler_watched():
                self._client.subscribe_topic(run, self._inbox_event)
            self._roster = Roster(60 * config.patience_minutes)
            self._exit = stack.pop_all()

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
        with self._scheduler_watched():
            self._look(events)
            self._assign()
            self._receive(events)
        return events

    def close(self) -> Sequence[Event]:
        """Let studies that are being written be finished, drop the others, and end."""
        events: list[Event] = []
        try:
            with suppress(PipelineError), self._scheduler_watched():
                self._stop(events)
        finally:
            self._exit.close()
        return [event for event in events if isinstance(event, Row)]

    def _look(self, events: list[Event]) -> None:
        """See which workers came and which are gone."""
        if time.monotonic() - self._looked_at < LOOK_EVERY_S:
            return
        self._looked_at = time.monotonic()
        came, gone = self._roster.update(self._client.nthreads())
        for worker in gone:
            self._lose_worker(worker, "the worker process ended", events)
        for worker in came:
            future = self._submit(worker, prepare, self._order)
            future.add_done_callback(lambda done, worker=worker: self._inbox.put((worker, done)))
        self._roster.check()

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
        study = replace(study, paths=tuple(path.absolute() for path in study.paths))
        is_there = all(path.exists() for path in study.paths)
        future = self._submit(worker, segment_study, self._order, study, is_there=is_there)
        self._tasks[study.case] = _Task(study, worker, future)
        future.add_done_callback(lambda done: self._inbox.put((study.case, done)))

    def _submit(self, worker: str, *call: object, **options: object) -> Future:
        """Have a function called at one worker and no other; its name tells nothing."""
        self._num_given += 1
        key = f"{self._order.run}-{self._num_given}"
        return self._client.submit(*call, workers=[worker], key=key, pure=False, **options)

    def _receive(self, events: list[Event]) -> None:
        """Handle what came, waiting up to a second for it."""
        with suppress(queue.Empty):
            message = self._inbox.get(timeout=1.0)
            while True:
                self._handle(message, events)
                message = self._inbox.get_nowait()

    def _inbox_event(self, event: tuple[float, dict[str, Any]]) -> None:
        self._inbox.put(event[1])

    def _handle(self, message: object, events: list[Event]) -> None:
        """Handle a worker's report, or an answer: to a study or to the preparation of a worker."""
        match message:
            case {"case": case, "stage": stage}:
                if case in self._tasks:
                    self._tasks[case].stage = stage
                    events.append(Began(case, stage))
            case {"logger": name, "level": level, "text": text}:
                logging.getLogger(name).log(level, "%s", text)
            case (name, future):
                task = self._tasks.get(name)
                if task is None:
                    self._take_preparation(name, future)
                elif task.future is future:
                    self._take_answer(task, future, events)

    def _take_preparation(self, worker: str, future: Future) -> None:
        """Take what a worker says of itself; if it ends now, looking at the workers will tell."""
        if not self._roster.is_awaited(worker) or future.cancelled():
            return
        try:
            error = future.exception(timeout=_RESULT_S)
            answer = error or future.result(timeout=_RESULT_S)
        except TimeoutError:
            self._inbox.put((worker, future))
            return
        if answer is None:
            self._roster.accept(worker)
        elif isinstance(answer, Unfit):
            self._roster.refuse(worker, answer.reason)
        else:
            found = f"it cannot do what Trivox asks for ({type(error).__name__}: {error})"
            remedy = f"Install Trivox {self._order.version} there and where the scheduler is."
            self._roster.refuse(worker, f"worker at {_host(worker)}: {found}. {remedy}")

    def _take_answer(self, task: _Task, future: Future, events: list[Event]) -> None:
        """Take what a worker says of a study; if it ends now, looking at the workers will tell."""
        if future.cancelled():
            return
        try:
            error = future.exception(timeout=_RESULT_S)
            answer: Answer = None if error else future.result(timeout=_RESULT_S)
        except TimeoutError:
            self._inbox.put((task.study.case, future))
            return
        del self._tasks[task.study.case]
        if error is not None:
            answer = Broken(f"the worker process ended or broke ({type(error).__name__})")
        match answer:
            case Row():
                events.append(answer)
            case Broken(reason):
                self._lose(task, reason, events)
            case Unfit(reason):
                self._roster.refuse(task.worker, reason)
                self._waiting.appendleft(task.study)
            case None:
                self._waiting.appendleft(task.study)

    def _lose_worker(self, worker: str, reason: str, events: list[Event]) -> None:
        for task in [task for task in self._tasks.values() if task.worker == worker]:
            del self._tasks[task.study.case]
            task.future.cancel()
            self._lose(task, reason, events)

    def _lose(self, task: _Task, reason: str, events: list[Event]) -> None:
        """Give a study to another worker, unless it may be what ends them."""
        case = task.study.case
        if task.stage is not None:
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
        self._client.run(release, self._order.run, on_error="ignore")

    @contextmanager
    def _scheduler_watched(self) -> Iterator[None]:
        """Turn what goes wrong when the scheduler is gone into an error that says so."""
        remedy = "Start it again and run the same command: it goes on from here."
        gone = PipelineError("the Dask scheduler", "it is gone", remedy)
        try:
            yield
        except Exception as error:
            if isinstance(error, OSError) or self._client.status != "running":
                raise gone from error
            raise
        if self._client.status != "running":
            raise gone


def _within_memory(remote: RemoteJob, config: ClusterConfig) -> RemoteJob:
    """Let a worker refuse a study by name rather than be ended because of it."""
    limit = None
    if not isinstance(config, AddressConfig) and config.memory_bytes is not None:
        limit = round(_OF_MEMORY * config.memory_bytes)
    elif isinstance(config, LocalConfig):
        limit = round(_OF_MEMORY * available_bytes() / config.workers)
    options = remote.request.options
    limits = [each for each in (limit, options.max_bytes) if each is not None]
    options = replace(options, max_bytes=min(limits, default=None))
    return replace(remote, request=replace(remote.request, options=options))


def _host(address: str) -> str:
    return address.partition("://")[2].rpartition(":")[0] or address
