"""What candidates cost in memory and time, on the device planned for."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.inference import KnownGpu
from pipeline.manifest import Manifest
from pipeline.planning.compose import WORKERS, Choice, compose
from pipeline.planning.memory import Cost, count_gflops, make_step, trace_cost
from pipeline.planning.rules import Kind
from pipeline.planning.search import Candidate
from pipeline.system.processes import waited_s
from pipeline.training import RunConfig
from pipeline.training.arithmetic import usual_arithmetic

logger = logging.getLogger(__name__)

GFLOPS_PER_CORE = 100.0
"""Of a CPU core in training steps of small 3D U-Nets, with AMX or AVX-512."""

WIDE = 16
"""Features of the finest level from which a CPU reaches that speed; it falls in proportion."""

GFLOPS_OF_GPU = 8000.0
"""Of a data-centre GPU in the same steps, at half precision: a guess, for where none is known."""

WARM_UPS = 2
STEPS = 3

MOST_WAITING = 0.1
"""Of the time of a step that its threads may wait for a core; more, and the machine is busy."""

PARALLEL = 0.85
"""Share of the number of threads by which they shorten a step: an estimate."""

ANY_MINUTES = 1.0
"""The budget does not change what a step costs."""


class Pricer:
    """Prices candidates; traces each shape of network once.

    Args:
        choice: What holds for all of them.
        manifest: Says how many channels and outputs there are.
        device: To measure on; None goes by the arithmetic and the nominal speed of its kind.
    """

    def __init__(self, choice: Choice, manifest: Manifest, device: torch.device | None) -> None:
        self.device = device
        self.gpu = choice.gpu
        self._choice = choice
        self._manifest = manifest
        self._costs: dict[Any, Cost] = {}
        self._gflops: dict[Any, float] = {}
        self._slowness: dict[int, float] = {}
        self._ran_out: set[int] = set()
        self.was_busy = False

    def memory_gb(self, candidate: Candidate) -> float:
        """Return the peak memory of training, in GB."""
        kind = self._choice.kind
        num_channels = len(self._manifest.channels)
        voxels = candidate.batch_size * candidate.shape.num_voxels
        return self._cost(candidate).memory_gb(voxels, num_channels, WORKERS[kind], kind, self.gpu)

    def lack(self, candidate: Candidate, memory_gb: float) -> str:
        """Say why a candidate does not fit in memory; empty if it does.

        Where a step ran out of memory, its estimate says too little of networks as wide.
        """
        width, needed_gb = candidate.features[0], self.memory_gb(candidate)
        if needed_gb > memory_gb:
            return f"needs {needed_gb:.3g} GB of memory"
        return f"a step with {width} features ran out of memory" if width in self._ran_out else ""

    def gflops(self, candidate: Candidate) -> float:
        """Return the arithmetic of a step, in billions of operations."""
        key = _network_of(candidate)
        if key not in self._gflops:
            run = compose(self._choice, candidate, ANY_MINUTES)
            self._gflops[key] = count_gflops(run, self._manifest)
        return self._gflops[key] * candidate.batch_size * candidate.shape.num_voxels

    def seconds(self, candidate: Candidate) -> float:
        """Return the seconds of a step, from its arithmetic and the speed that is known."""
        kind, width = self._choice.kind, candidate.features[0]
        nominal = nominal_seconds(self.gflops(candidate), kind, self.gpu)
        if kind == "cpu":
            nominal *= max(1.0, WIDE / width)
        return self._slowness.get(width, 1.0) * nominal

    def measured_seconds(self, candidate: Candidate) -> float | None:
        """Return the seconds of a step, measured where there is a device to do so.

        None if the device runs out of memory in it: networks as wide then fit no more.
        """
        if self.device is None:
            return self.seconds(candidate)
        run = compose(self._choice, candidate, ANY_MINUTES)
        try:
            step = measure_seconds(run, self._manifest, self.device)
        except torch.OutOfMemoryError:
            width, needed_gb = candidate.features[0], self.memory_gb(candidate)
            text = "a step estimated at %.3g GB ran out of memory: "
            text += "no network of %d features is planned"
            logger.warning(text, needed_gb, width)
            self._ran_out.add(width)
            return None
        if step.was_busy and not self.was_busy:
            logger.warning(
                "other processes took the cores while the speed was measured; it is estimated from "
                "the processor time of one thread. To measure it, plan again when the machine is "
                "idle."
            )
        self.was_busy |= step.was_busy
        return step.seconds

    def calibrate(self, candidate: Candidate) -> None:
        """Learn the speed of the device from a candidate, for all networks of its width.

        Narrow networks do less arithmetic in a second than wide ones: they wait for memory.
        """
        seconds, width = self.measured_seconds(candidate), candidate.features[0]
        if seconds is not None:
            slowness = seconds / self.seconds(candidate)
            self._slowness[width] = self._slowness.get(width, 1.0) * slowness

    def _cost(self, candidate: Candidate) -> Cost:
        key = _network_of(candidate)
        if key not in self._costs:
            run = compose(self._choice, candidate, ANY_MINUTES)
            self._costs[key] = trace_cost(run, self._manifest, self._choice.kind)
        return self._costs[key]


def _network_of(candidate: Candidate) -> tuple[object, ...]:
    """Return what a step costs by the voxel depends on."""
    return candidate.features, candidate.shape.strides, candidate.shape.kernel_sizes


@dataclass(frozen=True)
class StepTime:
    """How long a training step takes.

    Attributes:
        seconds: By the clock, on an idle machine.
        was_busy: Whether the machine was not idle, so that the seconds are an estimate.
    """

    seconds: float
    was_busy: bool


def measure_seconds(config: RunConfig, manifest: Manifest, device: torch.device) -> StepTime:
    """Return the time of a training step as planned, on random data.

    In the precision and layout that usually are fastest on such a device, if the configuration
    leaves them open. The fastest of a few steps counts. The loader is not part of it: it runs
    beside the steps.

    Where other processes took the cores meanwhile, the clock says little, and so does the
    processor time of several threads, which spend it waiting for each other. That of a single
    thread hardly depends on who else runs, so it decides there, shared among the threads. Whether
    others took the cores is known on Linux only.
    """
    usual = usual_arithmetic(config.training, device)
    settled = {"precision": usual.precision, "layout": usual.layout}
    training = config.training.model_copy(update=settled)
    _, step = make_step(config.model_copy(update={"training": training}), manifest, device)
    threads = torch.get_num_threads()
    # A step gives the loss as a number, and so waits for the device.
    for _ in range(WARM_UPS):
        step()
    waited, start = waited_s(), time.perf_counter()
    seconds = min(_timed(step, time.perf_counter) for _ in range(STEPS))
    most_s = MOST_WAITING * threads * (time.perf_counter() - start)
    if device.type != "cpu" or waited_s() - waited <= most_s:
        return StepTime(seconds, was_busy=False)
    torch.set_num_threads(1)
    try:
        alone = min(_timed(step, time.process_time) for _ in range(STEPS))
    finally:
        torch.set_num_threads(threads)
    return StepTime(alone / max(1.0, PARALLEL * threads), was_busy=True)


def _timed(step: Callable[[], float], clock: Callable[[], float]) -> float:
    start = clock()
    step()
    return clock() - start


def nominal_seconds(gflops: float, kind: Kind, gpu: KnownGpu | None = None) -> float:
    """Return the seconds of a step on a device that is not here, from its arithmetic alone.

    Args:
        gflops: Of the step.
        kind: Of device.
        gpu: That was measured, if the device is like one.
    """
    if gpu is not None:
        return gflops / gpu.gflops(gflops)
    speed = GFLOPS_OF_GPU if kind == "cuda" else GFLOPS_PER_CORE * torch.get_num_threads()
    return gflops / speed
