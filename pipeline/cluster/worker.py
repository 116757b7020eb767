"""What a worker of a cluster does: one warm model, and studies that pass through it.

The functions `prepare`, `segment_study` and `release` are the tasks that a run sends. None of them
raises an error: a worker would log it together with the task's arguments, which hold paths.
"""

import logging
import platform
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import torch
from distributed import Worker, WorkerPlugin, get_worker
from distributed.core import Status

from pipeline import __version__
from pipeline.cluster.config import AddressConfig, ClusterConfig, LocalConfig
from pipeline.cohort import RemoteJob
from pipeline.cohort.child import Line
from pipeline.cohort.events import Alive, Began, Event, Steps
from pipeline.errors import PipelineError
from pipeline.inference import failure_of
from pipeline.journal import Row
from pipeline.study import StudyInput
from pipeline.system.memory import available_bytes
from pipeline.system.spelling import LogFormatter

_OF_MEMORY = 0.9
"""Of what a worker may take; at 95 % it is ended."""


@dataclass(frozen=True)
class Order:
    """What a run wants of each worker.

    Attributes:
        run: The run's name, and the topic that the worker reports under.
        remote: What to do, with which model.
        witness: A file in the output folder, which a worker sees only if it has the same folder.
        threads: To compute with.
        num_gpus: That the workers share in turn; 0: each computes on the device that `remote` says.
        log_level: Of what the run wants to hear.
        version: Of Trivox where the run is.
    """

    run: str
    remote: RemoteJob
    witness: Path
    threads: int
    num_gpus: int
    log_level: int
    version: str = __version__


def make_order(
    run: str, witness: Path, remote: RemoteJob, config: ClusterConfig, log_level: int
) -> Order:
    """Return what a run wants of each worker of a cluster."""
    num_gpus = config.gpus if isinstance(config, LocalConfig) else 0
    remote = _within_memory(remote, config)
    return Order(run, remote, witness, config.threads, num_gpus, log_level)


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


@dataclass(frozen=True)
class Unfit:
    """A worker cannot take part: why, and what would help."""

    reason: str


@dataclass(frozen=True)
class Broken:
    """Something went wrong with all that a worker had in hand."""

    reason: str


Answer: TypeAlias = Row | Unfit | Broken | None
"""What became of a study at a worker; None: it was dropped."""


logger = logging.getLogger(__name__)

_PLUGIN = "trivox"
SAYS_EVERY_S = 1.0
"""How often a worker says at most that it is alive."""

_RUNNING = ("executing", "long-running")
_ENDING = (Status.closing, Status.closed, Status.failed)


def prepare(order: Order) -> Unfit | None:
    """Load the model unless it is warm; tell what hinders it."""
    try:
        _stations().of(order)
    except PipelineError as error:
        return Unfit(str(error))
    except Exception as error:
        logger.debug("a worker cannot be prepared", exc_info=True)
        return Unfit(f"{type(error).__name__}: {error}")
    return None


def segment_study(order: Order, study: StudyInput, *, is_there: bool) -> Answer:
    """Bring a study to its end.

    Args:
        order: As for `prepare`.
        study: To segment.
        is_there: Whether the one who sent it sees its files.
    """
    unfit = prepare(order)
    if unfit is not None:
        return unfit
    if is_there and not all(path.exists() for path in study.files()):
        remedy = "Mount the folders of the inputs there, at the same paths."
        return Unfit(f"a study is not there, but can be seen where the run was started. {remedy}")
    return _stations().of(order).do(study, get_worker().get_current_task())


def release(run: str, dask_worker: Worker) -> None:
    """Forget the model of a run."""
    stations = dask_worker.plugins.get(_PLUGIN)
    if stations is not None:
        stations.forget(run)


class Stations(WorkerPlugin):  # type: ignore[misc]
    """What a worker's process keeps from one task to the next: the station of the last run.

    Args:
        worker: Whose it is.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._station: Station | None = None
        self._changing = threading.Lock()

    def of(self, order: Order) -> "Station":
        """Return the station of a run, made when its first task comes.

        Raises:
            PipelineError: If the worker cannot do what is asked for.
        """
        with self._changing:
            station = self._station
            if station is None or station.run != order.run or station.is_over:
                # The old model goes before the new one comes.
                self._station = station = None
                self._station = station = Station(order, self._worker)
            return station

    def forget(self, run: str) -> None:
        """Let go of the station of a run."""
        with self._changing:
            if self._station is not None and self._station.run == run:
                self._station = None


class Station:
    """A warm model and a line of studies; tasks take turns in moving the line on.

    Args:
        order: What the run wants.
        worker: Where it is wanted.

    Raises:
        PipelineError: If the worker cannot do it.
    """

    def __init__(self, order: Order, worker: Worker) -> None:
        _check_fit(order)
        torch.set_num_threads(order.threads)
        self.run = order.run
        self.is_over = False
        self._worker = worker
        self._rows: dict[str, Row] = {}
        self._tasks: dict[str, str] = {}
        self._left: dict[str, threading.Event] = {}
        self._written: set[str] = set()
        self._segmenting = ""
        self._said_at = 0.0
        self._failure: Broken | None = None
        self._turn = threading.Lock()
        self._forward_logs(order.log_level)
        job = _on_its_gpu(order, worker.name).make()
        self._device = job.segmenter.device
        self._line = Line(job, self._report)

    def do(self, study: StudyInput, task: str) -> Answer:
        """Put a study into the line and move the line on until the study has left it."""
        case = study.case
        self._tasks[case] = task
        self._left[case] = threading.Event()
        self._line.give(study)
        while case not in self._written and not self._has_left(case):
            with self._turn:
                if case not in self._written and not self._has_left(case):
                    self._step()
        # Whose study is next moves the line on. One that ended before this study came is mute.
        if not self.is_over:
            self._left[case].wait()
        self._written.discard(case)
        del self._tasks[case], self._left[case]
        return self._rows.pop(case, self._failure)

    def _has_left(self, case: str) -> bool:
        return self.is_over or self._left[case].is_set()

    def _step(self) -> None:
        """Move the line on; if that cannot be, this station is over, and its studies go back."""
        try:
            self._line.step()
        except KeyboardInterrupt:
            # Nobody wants the study in hand any more. What is being written may be wanted.
            self._end()
        except Exception as error:
            logger.debug("a worker's line is broken", exc_info=True)
            self._failure = Broken(f"{type(error).__name__} in the worker")
            self._end()

    def _end(self) -> None:
        try:
            self._line.close()
        except KeyboardInterrupt:
            logger.debug("what was being written is not wanted either")
        finally:
            self.is_over = True
            for left in list(self._left.values()):
                left.set()

    def _report(self, event: Event) -> None:
        """Keep rows for their tasks, tell the run what begins, and stop what nobody wants."""
        match event:
            case Row():
                if event.status == "failed" and (failure := failure_of(self._device)):
                    # Nothing else could be computed here, and the study is not to blame.
                    raise RuntimeError(f"{self._device} failed: {failure}")
                self._rows[event.case] = event
                self._left[event.case].set()
            case Began(case, stage):
                if stage != "load" and not self._is_wanted(case):
                    raise KeyboardInterrupt
                if stage == "segment":
                    self._segmenting = case
                if stage == "write":
                    self._written.add(case)
                self._worker.log_event(self.run, {"case": case, "stage": stage})
            case Steps():
                if not self._is_wanted(self._segmenting):
                    raise KeyboardInterrupt
                self._say_alive()
            case Alive():
                self._say_alive()

    def _say_alive(self) -> None:
        """Tell the run that this worker does not hang, but not at each of thousands of steps."""
        now = time.monotonic()
        if now - self._said_at > SAYS_EVERY_S:
            self._said_at = now
            self._worker.log_event(self.run, {"alive": self._worker.address})

    def _is_wanted(self, case: str) -> bool:
        """Tell whether a study's task has been cancelled, by the run or because the run is gone.

        Such a study must not be written: another run may be doing it by now, otherwise.
        """
        task = self._worker.state.tasks.get(self._tasks.get(case))
        is_running = task is not None and task.state in _RUNNING
        return is_running and self._worker.status not in _ENDING

    def _forward_logs(self, level: int) -> None:
        """Let the run hear what is logged here; a worker's own log may be read by many."""
        ours = logging.getLogger("pipeline")
        ours.handlers = [_ToRun(self._worker, self.run)]
        ours.setLevel(level)
        ours.propagate = False


class _ToRun(logging.Handler):
    """Sends log records to the run, as text."""

    def __init__(self, worker: Worker, topic: str) -> None:
        super().__init__()
        self._worker, self._topic = worker, topic
        self.setFormatter(LogFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        said = {"logger": record.name, "level": record.levelno, "text": self.format(record)}
        self._worker.log_event(self._topic, said)


def _stations() -> Stations:
    """Return what this worker keeps; it lives as long as the worker's process."""
    worker = get_worker()
    stations: Stations = worker.plugins.setdefault(_PLUGIN, Stations(worker))
    return stations


def _check_fit(order: Order) -> None:
    """Raise a `PipelineError` unless this worker has what the run has."""
    host = f"worker on {platform.node()}"
    if order.version != __version__:
        found = f"it has Trivox {__version__}, but the run was started by Trivox {order.version}"
        raise PipelineError(host, found, "Install the same version on all machines.")
    model, out = order.remote.request.folder, order.remote.request.out
    if model is not None and not model.is_dir():
        remedy = f"Mount the model's folder there, at the same path: {model}."
        raise PipelineError(host, "it does not see the model", remedy)
    if not order.witness.exists():
        remedy = f"Mount this very folder there, at the same path, for the same user: {out}."
        raise PipelineError(host, "it does not see the output folder (--out)", remedy)
    try:
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        found = f"it cannot write to the output folder (--out): {error.strerror}"
        raise PipelineError(host, found, f"Allow this user there to write to {out}.") from error


def _on_its_gpu(order: Order, name: int | str) -> RemoteJob:
    """Choose a GPU by the number that a worker is called by, where several share a machine's."""
    if order.num_gpus == 0:
        return order.remote
    return replace(order.remote, device=f"cuda:{int(name) % order.num_gpus}")
