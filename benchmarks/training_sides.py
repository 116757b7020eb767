"""The two loops that are compared: a plain one as MONAI's tutorials show it, and Trivox's.

Both start from the same weights, and learn from the same cases with the same augmentation.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine

from benchmarks.gpu.timing import busy, synchronize
from benchmarks.training_operations import Operations, time_operations
from pipeline.inference import autocast_type, choose_device
from pipeline.losses import build_loss
from pipeline.network import build_network
from pipeline.patches import Batch, CachedCase
from pipeline.training import RunConfig, TrainingConfig
from pipeline.training.arithmetic import memory_format, settle_arithmetic, torch_settings
from pipeline.training.distributed import Ranks
from pipeline.training.loader import build_loader
from pipeline.training.step import build_state, build_trainer

ENDLESS = 10**9
NUM_FIXED = 4
"""Batches that the steps without loading take turns at."""
AS_CHOSEN = "as chosen"
FROM_CACHE = "from the cache"
WARM_UPS = 5


@dataclass(frozen=True)
class Setup:
    """What both loops learn from, and how.

    Attributes:
        config: The experiment.
        cases: Preprocessed.
        spacing_mm: Of their grid.
        num_channels: Of their images.
        num_classes: Of their labels, background included.
    """

    config: RunConfig
    cases: tuple[CachedCase, ...]
    spacing_mm: tuple[float, float, float]
    num_channels: int
    num_classes: int

    @cached_property
    def ranks(self) -> Ranks:
        """This process, alone."""
        return Ranks(choose_device(self.config.device))

    def network(self) -> torch.nn.Module:
        """Build the network with its starting weights."""
        torch.manual_seed(self.config.seed)
        patch = self.config.training.patch_size
        return build_network(self.config.network, self.num_channels, self.num_classes, patch)

    def batches(self, count: int) -> list[Batch]:
        """Return the first batches of the experiment: the same ones wherever it is called."""
        training = self.config.training.model_copy(update={"num_workers": 0})
        config = self.config.model_copy(update={"training": training})
        return list(islice(build_loader(self.cases, config, self.spacing_mm, self.ranks, 0), count))


class Side:
    """One of the loops; `step` trains on a batch and returns its loss."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self._batches: Iterator[Any] | None = None
        self._steps: dict[str, Callable[[Any], float]] = {}
        self._runs: dict[str, Callable[[int], None]] = {}

    def variants(self) -> list[str]:
        """Return the ways in which this loop can compute."""
        raise NotImplementedError

    def make_step(self, variant: str) -> Callable[[Any], float]:
        """Return a step of a network with its starting weights."""
        raise NotImplementedError

    def load(self) -> Iterator[Any]:
        """Return an endless stream of this loop's batches."""
        raise NotImplementedError

    def ways(self) -> list[str]:
        """Return the ways in which this loop can train with loading."""
        return [AS_CHOSEN]

    def make_run(self, way: str) -> Callable[[int], None]:
        """Return what trains with loading for a number of iterations, which nothing interrupts."""
        raise NotImplementedError

    def take(self, batch: Batch) -> Any:  # noqa: ANN401
        """Return a batch as this loop's own loading gives it."""
        return batch

    def describe(self) -> dict[str, str]:
        """Say how this loop computes when it is left to choose."""
        return {"precision": "fp32", "layout": "contiguous"}

    def iterate(self, count: int) -> dict[str, Any]:
        """Train with loading; return the seconds of waiting and of steps, and the GPU's memory."""
        if self._batches is None:
            self._batches = self.load()
        step, seconds = self._step(AS_CHOSEN), []
        for _ in range(count):
            start = time.perf_counter()
            batch = next(self._batches)
            loaded = time.perf_counter()
            step(batch)
            seconds.append((loaded - start, time.perf_counter() - loaded))
        device = self.setup.ranks.device
        on_gpu = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
        return {"seconds": seconds, "gpu_bytes": on_gpu}

    def throughput(self, way: str, least_s: float) -> dict[str, Any]:
        """Train with loading for about `least_s`, then half as long with the GPU traced.

        Returns:
            Seconds of an iteration, how busy the GPU was (see `Busy`), and its peak of memory.
        """
        device = self.setup.ranks.device
        if way not in self._runs:
            self._runs[way] = self.make_run(way)
        run = self._runs[way]
        run(WARM_UPS)
        synchronize(device)
        start = time.perf_counter()
        run(WARM_UPS)
        synchronize(device)
        count = max(2, round(WARM_UPS * least_s / (time.perf_counter() - start)))
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        start = time.perf_counter()
        run(count)
        synchronize(device)
        seconds = (time.perf_counter() - start) / count
        peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
        with busy(device) as found:
            run(max(1, count // 2))
        traced = {"share": found.share, "sampled": found.sampled, "note": found.note}
        return {"seconds": seconds, "count": count, "busy": traced, "gpu_bytes": peak}

    def time_steps(self, variant: str, count: int) -> list[float]:
        """Train on a few batches that lie in memory; return the seconds of each step."""
        step, seconds = self._step(variant), []
        for index in range(count):
            batch = self._fixed[index % NUM_FIXED]
            start = time.perf_counter()
            step(batch)
            seconds.append(time.perf_counter() - start)
        return seconds

    def time_operations(self, variant: str, count: int) -> Operations:
        """Train on a few batches that lie in memory; say where the time of a step goes."""
        step = self._step(variant)
        step(self._fixed[0])
        dtype = torch.bfloat16 if "bf16" in variant else torch.float32
        return time_operations(lambda n: step(self._fixed[n % NUM_FIXED]), count, dtype)

    def losses(self, variant: str, count: int) -> list[float]:
        """Train from the starting weights on the first batches; return the losses."""
        step = self.make_step(variant)
        losses = []
        for index, batch in enumerate(self.setup.batches(count)):
            torch.manual_seed(index)
            losses.append(step(self.take(batch)))
        return losses

    @cached_property
    def _fixed(self) -> list[Any]:
        return [self.take(batch) for batch in self.setup.batches(NUM_FIXED)]

    def _step(self, variant: str) -> Callable[[Any], float]:
        if variant not in self._steps:
            self._steps[variant] = self.make_step(variant)
        return self._steps[variant]


class Ours(Side):
    """Trivox's loader and step."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._open = ExitStack()
        self._open.enter_context(torch_settings(deterministic=False))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "arithmetic.json"
            network, config = setup.network(), setup.config.training
            self._chosen = settle_arithmetic(path, network, setup.num_channels, config, setup.ranks)

    def variants(self) -> list[str]:
        """Return float32 and what else the device computes in natively, in both layouts."""
        dtype = autocast_type("auto", self.setup.ranks.device)
        names = {torch.bfloat16: "bf16", torch.float16: "fp16"}
        precisions = ["fp32", *([names[dtype]] if dtype is not None else [])]
        return [f"{p} {layout}" for p in precisions for layout in ("contiguous", "channels_last")]

    def describe(self) -> dict[str, str]:
        """Return what was measured to be fastest."""
        return {"precision": self._chosen.precision, "layout": self._chosen.layout}

    def make_step(self, variant: str) -> Callable[[Any], float]:
        """Return what an iteration of `trivox train` does."""
        trainer = self._trainer(variant)
        return lambda batch: _run(trainer, batch)

    def _trainer(self, variant: str) -> Engine:
        setup, config = self.setup, self._config(variant)
        network = setup.network().to(setup.ranks.device)
        network.to(memory_format=memory_format(config.layout))
        state = build_state(network, config, setup.ranks.device, setup.config.seed)
        loss = build_loss(setup.config.loss, setup.num_classes, spacing_mm=setup.spacing_mm)
        return build_trainer(state, config, setup.ranks, loss)

    def make_run(self, way: str) -> Callable[[int], None]:
        """Return what the engine of `trivox train` does, without what happens at its events.

        A GPU holds the cases, as it does where they fit, unless they are to come from the cache.
        """
        setup, device = self.setup, self.setup.ranks.device
        is_resident = device.type == "cuda" and FROM_CACHE not in way
        loader = build_loader(
            setup.cases, setup.config, setup.spacing_mm, setup.ranks, 0, is_resident=is_resident
        )
        trainer, batches = self._trainer(way.removesuffix(f" {FROM_CACHE}")), iter(loader)

        def run(count: int) -> None:
            trainer.run(batches, max_epochs=1, epoch_length=count)

        return run

    def load(self) -> Iterator[Batch]:
        """Load as `trivox train` does."""
        setup = self.setup
        loader = build_loader(
            setup.cases,
            setup.config,
            setup.spacing_mm,
            setup.ranks,
            0,
            # These few cases fit on any GPU.
            is_resident=setup.ranks.device.type == "cuda",
        )
        return iter(loader)

    def _config(self, variant: str) -> TrainingConfig:
        if variant == AS_CHOSEN:
            return self._chosen
        precision, layout = variant.split()
        return self._chosen.model_copy(update={"precision": precision, "layout": layout})


def _run(trainer: Engine, batch: Batch) -> float:
    return float(trainer.run([batch], max_epochs=1).output)
