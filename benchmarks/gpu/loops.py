"""Training loops side by side, each in a process of its own."""

import os
from contextlib import ExitStack, closing
from typing import Any

from benchmarks.gpu.figure import Context, Measured
from benchmarks.gpu.parts.training import CORES
from benchmarks.gpu.sections import Found
from benchmarks.inference_cases import FEATURES
from benchmarks.training_sides import AS_CHOSEN, FROM_CACHE, Setup
from benchmarks.training_step import PHANTOM, prepare_with_manifest
from benchmarks.training_worker import Worker
from pipeline.config import load_config
from pipeline.planning.memory import trace_cost
from pipeline.training import RunConfig

GB = 1e9
MOST_WORKERS = 8


class Loops:
    """Both loops on CT phantoms.

    Args:
        context: Of the part.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._open = ExitStack()
        self._seconds = 0.2 if context.tiny else 4.0
        self._edge = 16 if context.tiny else 128
        self._setup: Setup | None = None
        self._chosen: dict[str, str] = {}

    def close(self) -> None:
        """End their processes."""
        self._open.close()

    def steps(self) -> Found:
        """Measure iterations of both loops."""
        yield "preparing cases"
        config = self._config(num_workers=self._num_workers(len(os.sched_getaffinity(0))))
        self._setup, manifest = prepare_with_manifest(config)
        cost = trace_cost(config, manifest, "cuda")
        yield "starting both loops"
        ours, plain = self._worker("ours", self._setup), self._worker("plain", self._setup)
        self._chosen = ours.call("describe")
        yield "training with Trivox"
        mine = ours.call("throughput", AS_CHOSEN, self._seconds)
        how = (
            f"U-Net {self._features}, batches of {config.training.batch_size} x {self._edge}^3, "
            f"{self._chosen['precision']} {self._chosen['layout']}, "
            f"{config.training.num_workers} workers, {mine['count']} iterations"
        )
        yield Measured("step_s", mine["seconds"], how)
        yield Measured("busy", mine["busy"]["share"], mine["busy"]["note"])
        yield Measured("busy_of_driver", mine["busy"]["sampled"], "asked every 100 ms")
        yield from self._memory(mine, "memory_gb")
        voxels = config.training.batch_size * self._edge**3
        predicted = cost.memory_gb(voxels, 1, 0, "cuda")
        yield Measured("memory_predicted_gb", predicted, "with what CUDA itself takes, estimated")
        flop = cost.gflops_per_voxel * voxels * 1e9
        yield Measured("bf16_reached", flop / mine["seconds"] / 1e12, f"{flop / 1e9:.0f} GFLOP")
        from_cache = ours.call("throughput", f"{AS_CHOSEN} {FROM_CACHE}", self._seconds)
        yield Measured("step_from_cache_s", from_cache["seconds"], from_cache["busy"]["note"])
        yield Measured("busy_from_cache", from_cache["busy"]["share"])
        yield "training with the plain loop"
        yield from self._against(plain, mine["seconds"])

    def _against(self, plain: Worker, seconds: float) -> Found:
        """Measure the plain loop in each of its ways; the fastest counts."""
        found, failed = {}, []
        for way in plain.call("ways"):
            try:
                found[way] = plain.call("throughput", way, self._seconds)
            except RuntimeError as error:
                failed.append(f"{way}: {error}")
                plain = self._worker("plain", self._setup)
        best = min(found, key=lambda way: found[way]["seconds"])
        tried = [f"{way}: {each['seconds']:.3g} s" for way, each in found.items()]
        note = f"{best}; tried: {'; '.join(tried + failed)}"
        yield Measured("step_of_monai_s", found[best]["seconds"], note)
        yield Measured("step_ratio", found[best]["seconds"] / seconds)
        yield Measured("busy_of_monai", found[best]["busy"]["share"], found[best]["busy"]["note"])
        yield from self._memory(found[best], "memory_of_monai_gb")

    def _memory(self, found: dict[str, Any], name: str) -> Found:
        held = found["gpu_bytes"]
        yield Measured(name, None if held is None else held / GB)

    def cores(self) -> Found:
        """Measure ours where it may use some cores only."""
        self.close()
        assert self._setup is not None, "the loops were not prepared"
        here = len(os.sched_getaffinity(0))
        for number in CORES:
            name = f"step_s_{number}_cores"
            if number > here or (self._context.tiny and number > 1):
                yield Measured(name, None, f"left out: there are {here} cores")
                continue
            workers = self._num_workers(number)
            # As it was chosen with all cores, which takes its time.
            training = self._setup.config.training.model_copy(
                update={"num_workers": workers, **self._chosen}
            )
            config = self._setup.config.model_copy(update={"training": training})
            setup = Setup(config, *self._rest_of_setup())
            with closing(Worker("ours", setup, number)) as worker:
                found = worker.call("throughput", AS_CHOSEN, self._seconds)
                cached = worker.call("throughput", f"{AS_CHOSEN} {FROM_CACHE}", self._seconds)
            note = f"from the cache with {workers} workers {cached['seconds']:.3g} s"
            yield Measured(name, found["seconds"], note)

    def _rest_of_setup(self) -> tuple[Any, ...]:
        setup = self._setup
        assert setup is not None
        return setup.cases, setup.spacing_mm, setup.num_channels, setup.num_classes

    def _worker(self, side: str, setup: Setup | None) -> Worker:
        assert setup is not None
        return self._open.enter_context(closing(Worker(side, setup)))

    def _num_workers(self, cores: int) -> int:
        return 1 if self._context.tiny else min(MOST_WORKERS, max(1, cores - cores // 4))

    @property
    def _features(self) -> list[int]:
        return [4, 8, 8] if self._context.tiny else list(FEATURES)

    def _config(self, num_workers: int) -> RunConfig:
        work, tiny = self._context.work, self._context.tiny
        spacing = 4.0 if tiny else 1.25
        return load_config(
            RunConfig,
            PHANTOM,
            [
                f"data.root={work / 'phantom'}",
                f"data.cache={work / 'cache'}",
                f"data.phantom.num_train={2 if tiny else 12}",
                "data.phantom.num_validation=1",
                f"output={work / 'runs'}",
                f"device={self._context.device}",
                f"preprocessing.spacing_mm={[spacing] * 3}",
                f"network.features={self._features}",
                f"training.patch_size={[self._edge] * 3}",
                "training.batch_size=2",
                f"training.num_workers={num_workers}",
                # MONAI bends in another way, which would not be the same work.
                "augmentation.elastic_probability=0",
            ],
        )
