"""Training steps and windows by configuration, and the table of GPUs that is made of them."""

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks.gpu.figure import Context, Measured
from benchmarks.gpu.ground import Ground
from benchmarks.gpu.sections import Found
from benchmarks.gpu.timing import seconds_of
from benchmarks.gpu.where import processor
from benchmarks.inference_cases import FEATURES
from pipeline.inference import InferenceConfig, Predictor
from pipeline.inference.known_gpus import TABLE, KnownGpu, KnownStep, known_gpus
from pipeline.manifest import Channel, Manifest
from pipeline.planning.memory import make_step, total_gb, trace_cost
from pipeline.system.files import write_text
from pipeline.training import RunConfig
from pipeline.training.arithmetic import usual_arithmetic

GB = 1e9
WORTH = 1.03
"""Ratio of speeds from which a larger batch counts as faster."""

BATCHES = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Setting:
    """A training step to measure: levels, edge of the patches, patches, and the precision."""

    features: tuple[int, ...]
    edge: int
    batch_size: int
    precision: str = "auto"


SETTINGS = (
    Setting(FEATURES, 128, 2),
    Setting(FEATURES[:4], 48, 4),
    Setting(FEATURES, 96, 2),
    Setting((*FEATURES, 320), 160, 2),
    Setting(FEATURES, 64, 8),
    Setting((16, 32, 64, 128), 96, 4),
    Setting(FEATURES, 128, 2, "fp32"),
)
TINY = (Setting((4, 8, 8), 16, 2), Setting((4, 8, 8), 32, 2))


class Plans:
    """Measures one GPU for the planner.

    Args:
        context: Of the part.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._ground = Ground(context)
        self._device = self._ground.device

    def measure(self) -> Found:
        """Measure and write; with tiny data, or on a CPU, into the part's own folder."""
        steps: list[KnownStep] = []
        for setting in TINY if self._context.tiny else SETTINGS:
            yield f"a step of {setting}"
            try:
                steps.append(self._step(setting))
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
            if self._context.left_s < 10 and not self._context.tiny:
                break
        rates = self._rates()
        best = best_batch(rates)
        is_gpu = self._device.type == "cuda"
        context_gb = self._context_gb()
        known = KnownGpu(
            name=torch.cuda.get_device_name(self._device) if is_gpu else processor(),
            memory_gb=round(total_gb(self._device), 2),
            context_gb=round(context_gb, 3),
            measured=f"{datetime.now(UTC):%Y-%m-%d}, torch {torch.__version__}",
            steps=tuple(steps),
            batch_voxels=best * self._ground.scale.edge**3,
            max_batch=max(rates),
        )
        path = TABLE if is_gpu and not self._context.tiny else self._context.work / TABLE.name
        put(known, path)
        yield Measured("table", str(path) if path == TABLE else "not kept")
        yield Measured("slack", known.slack)
        yield Measured("context_gb", context_gb if is_gpu else None)
        rated = ", ".join(f"{batch}: {rate:.3g}" for batch, rate in rates.items())
        yield Measured("best_batch", best, f"windows a second by batch: {rated}")
        speeds = sorted((step.gflop, step.gflop / step.seconds) for step in steps)
        yield Measured("gflops_small", speeds[0][1], f"{speeds[0][0]:.3g} GFLOP a step")
        yield Measured("gflops_large", speeds[-1][1], f"{speeds[-1][0]:.3g} GFLOP a step")
        yield Measured("base_gb", known.base_gb)
        told = [known.step_gb(step.predicted_gb) - known.context_gb for step in steps]
        errors = [each / step.measured_gb - 1 for each, step in zip(told, steps, strict=True)]
        yield Measured("memory_error", max(errors), "too much; never too little")
        yield Measured("steps", "; ".join(map(in_words, steps)))

    def _step(self, setting: Setting) -> KnownStep:
        """Measure a step on random patches, in the layout that is usual for the device."""
        config, manifest = _run_of(setting), _manifest()
        usual = usual_arithmetic(config.training, self._device)
        settled = {"precision": usual.precision, "layout": usual.layout}
        training = config.training.model_copy(update=settled)
        config = config.model_copy(update={"training": training})
        cost = trace_cost(config, manifest, "cuda")
        voxels = setting.batch_size * setting.edge**3
        device = self._device
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        _, step = make_step(config, manifest, device)
        least_s = 0.02 if self._context.tiny else 1.0
        seconds = seconds_of(step, device, least_s)
        predicted = cost.tensors_gb(voxels)
        # What is reserved and not in use is taken from others all the same.
        measured = torch.cuda.max_memory_reserved(device) / GB if device.type == "cuda" else 0.0
        return KnownStep(
            features=setting.features,
            patch_size=(setting.edge,) * 3,
            batch_size=setting.batch_size,
            precision=usual.precision,
            predicted_gb=predicted,
            measured_gb=measured or predicted,
            gflop=cost.gflops_per_voxel * voxels,
            seconds=seconds,
        )

    def _rates(self) -> dict[int, float]:
        """Return windows a second of the network by batch, as a prediction computes them."""
        scale = self._ground.scale
        network = self._ground.untaught
        rates: dict[int, float] = {}
        for batch in BATCHES[:2] if self._context.tiny else BATCHES:
            config = InferenceConfig(window=scale.window, batch_size=batch)
            predictor = Predictor([network], config, self._device, 8)
            windows = torch.randn(batch, 1, *scale.window, device=self._device)
            start = time.monotonic()
            try:
                seconds = seconds_of(lambda: predictor.ensemble(windows), self._device)  # noqa: B023
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                break
            rates[batch] = batch / seconds
            if self._context.left_s < 2 * (time.monotonic() - start):
                break
        return rates

    def _context_gb(self) -> float:
        """Return what is taken of the device beyond torch's tensors; by others, too."""
        if self._device.type != "cuda":
            return 0.0
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(self._device)
        return max(0, total - free - torch.cuda.memory_reserved(self._device)) / GB


def best_batch(rates: dict[int, float]) -> int:
    """Return the smallest batch such that no larger one is faster by more than `WORTH`."""
    best = min(rates)
    for batch, rate in sorted(rates.items()):
        if rate > WORTH * rates[best]:
            best = batch
    return best


def put(gpu: KnownGpu, path: Path) -> None:
    """Put a GPU into a table, in place of what it said of it before."""
    known_gpus.cache_clear()
    others = [each for each in known_gpus(path) if each.name != gpu.name]
    known_gpus.cache_clear()
    gpus = sorted([*others, gpu], key=lambda each: each.name)
    content = [each.model_dump(mode="json") for each in gpus]
    write_text(path, json.dumps(content, indent=1) + "\n")


def in_words(step: KnownStep) -> str:
    """Return a step in a few words."""
    return (
        f"{step.batch_size} x {step.patch_size[0]}^3, {len(step.features)} levels from "
        f"{step.features[0]}, {step.precision}: {step.predicted_gb:.3g} GB, "
        f"{step.measured_gb:.3g} GB, {step.gflop:.4g} GFLOP, {step.seconds:.3g} s"
    )


def _run_of(setting: Setting) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "step",
            "data": {"manifest": "none.yaml"},
            "network": {"features": setting.features},
            "training": {
                "patch_size": (setting.edge,) * 3,
                "batch_size": setting.batch_size,
                "max_minutes": 1,
                "precision": setting.precision,
            },
        }
    )


def _manifest() -> Manifest:
    labels = {f"organ_{value}": value for value in range(1, 4)}
    return Manifest(Path("none.yaml"), "", "", "", "", (Channel("CT", "CT"),), labels, ())
