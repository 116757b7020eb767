"""Measure training against a plain float32 MONAI loop: same cases, network, batch and weights.

    make bench [DATA=/path/to/Task04_Hippocampus]

Writes benchmarks/training_step.md. Without DATA the cases are those of the CT phantom. The loops
run by turns, a few iterations each, so that a machine's drift meets both.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import torch

from benchmarks.gpu.timing import gpu_sampled
from benchmarks.training_operations import Operations, operations_section
from benchmarks.training_page import (
    Figures,
    introduction,
    loading_section,
    loss_section,
    step_section,
)
from benchmarks.training_sides import AS_CHOSEN, Setup
from benchmarks.training_worker import Worker
from pipeline.config import load_config
from pipeline.inference import choose_device
from pipeline.manifest import Manifest
from pipeline.system.files import write_text
from pipeline.training import RunConfig, RunFolder
from pipeline.training.data import cache_cases
from pipeline.training.prepare import describe_run, prepare_run

ROUNDS = 5
STEP_ROUNDS = 5
STEPS = 2
LOSS_STEPS = 15
AVERAGED = 5
"""Last losses that are averaged before they are compared."""
HIPPOCAMPUS = Path("configs/msd_hippocampus.yaml")
PHANTOM = Path("configs/phantom_ct.yaml")


def main() -> int:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description="Measure training against a plain MONAI loop.")
    parser.add_argument("--data", type=Path, help="the folder Task04_Hippocampus; none: phantom")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/training_step.md"))
    options = parser.parse_args()
    setup = prepare(load(options.data))
    with closing(Worker("plain", setup)) as plain, closing(Worker("ours", setup)) as ours:
        chosen = ours.call("describe")
        loaded = measure_loading({"plain": plain, "ours": ours})
        steps = measure_steps({"plain": plain, "ours": ours})
        operations = measure_operations(plain, ours, chosen)
        losses = measure_losses(plain, ours)
    lines = [
        *introduction(setup, on_phantom=options.data is None),
        *loading_section(loaded, chosen, ROUNDS),
        *step_section(steps, STEP_ROUNDS * STEPS),
        *(operations_section(operations) if operations else []),
        *loss_section(losses, LOSS_STEPS, AVERAGED),
    ]
    write_text(options.out, "\n".join(lines).rstrip("\n") + "\n")
    sys.stdout.write(options.out.read_text(encoding="utf-8"))
    return 0


def load(data: Path | None) -> RunConfig:
    """Return the experiment: that of the hippocampus, on the phantom's cases if need be."""
    if data is not None:
        config = load_config(RunConfig, HIPPOCAMPUS, [f"data.root={data}"])
    else:
        shape = load_config(RunConfig, HIPPOCAMPUS, [])
        words = [
            f"training.patch_size={list(shape.training.patch_size)}",
            f"training.batch_size={shape.training.batch_size}",
            f"augmentation.flip_axes={list(shape.augmentation.flip_axes)}",
        ]
        config = load_config(RunConfig, PHANTOM, words)
    # MONAI bends in another way, which would not be the same work.
    rigid = config.augmentation.model_copy(update={"elastic_probability": 0.0})
    return config.model_copy(update={"augmentation": rigid})


def prepare(config: RunConfig) -> Setup:
    """Read and preprocess the training cases."""
    return prepare_with_manifest(config)[0]


def prepare_with_manifest(config: RunConfig) -> tuple[Setup, Manifest]:
    """Read and preprocess the training cases; return their manifest, too."""
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare_run(config, RunFolder(Path(folder)))
    description, manifest = describe_run(config, prepared), prepared.manifest
    settings, values = description.preprocessing, description.label_values
    cases = cache_cases(prepared.split.train, manifest, settings, values, config)
    sizes = len(description.channels), len(values)
    return Setup(config, tuple(cases), settings.spacing_mm, *sizes), manifest


def measure_loading(workers: Mapping[str, Worker]) -> dict[str, Figures]:
    """Let the loops train with loading, by turns; the first round does not count."""
    count = 100 if torch.cuda.is_available() else 10
    figures = {name: Figures() for name in workers}
    for number in range(ROUNDS + 1):
        for name, worker in workers.items():
            with gpu_sampled(figures[name].busy if number else [], choose_device("auto")):
                found = worker.call("iterate", count)
            if number:
                figures[name].waits += [wait for wait, _ in found["seconds"]]
                figures[name].steps += [step for _, step in found["seconds"]]
            figures[name].peak_bytes, figures[name].gpu_bytes = (
                worker.peak_bytes,
                found["gpu_bytes"],
            )
    return figures


def measure_steps(workers: Mapping[str, Worker]) -> dict[str, float]:
    """Time steps on batches in memory, all variants by turns; return medians by variant."""
    variants = [(name, v) for name, worker in workers.items() for v in worker.call("variants")]
    seconds: dict[str, list[float]] = {f"{name} {variant}": [] for name, variant in variants}
    for number in range(STEP_ROUNDS + 1):
        for name, variant in variants:
            found = workers[name].call("time_steps", variant, STEPS)
            seconds[f"{name} {variant}"] += found * bool(number)
    return {name: statistics.median(values) for name, values in seconds.items()}


def measure_operations(
    plain: Worker, ours: Worker, chosen: Mapping[str, str]
) -> dict[str, Operations]:
    """Look into the steps of the plain loop and of ours; not on a GPU, which computes behind."""
    if torch.cuda.is_available():
        return {}
    variant = f"{chosen['precision']} {chosen['layout']}"
    return {
        "plain fp32 contiguous": plain.call("time_operations", AS_CHOSEN, STEPS * STEP_ROUNDS),
        f"ours {variant}": ours.call("time_operations", variant, STEPS * STEP_ROUNDS),
    }


def measure_losses(plain: Worker, ours: Worker) -> dict[str, float]:
    """Train each from the same weights on the same batches; return the mean of the last losses."""
    runs = {
        "plain, fp32": plain.call("losses", AS_CHOSEN, LOSS_STEPS),
        "ours, fp32": ours.call("losses", "fp32 contiguous", LOSS_STEPS),
        "ours, as chosen": ours.call("losses", AS_CHOSEN, LOSS_STEPS),
    }
    return {name: statistics.mean(losses[-AVERAGED:]) for name, losses in runs.items()}


if __name__ == "__main__":
    sys.exit(main())
