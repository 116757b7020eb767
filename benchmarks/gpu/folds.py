"""Train on the hippocampus as users do, and follow the run by what it writes."""

import csv
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np

from benchmarks.gpu.figure import Context, Measured
from benchmarks.gpu.parts.hippocampus import DICE
from benchmarks.gpu.sections import Found
from benchmarks.gpu.where import ROOT
from benchmarks.training_step import HIPPOCAMPUS
from pipeline.evaluation import MEAN_OVER_LABELS
from pipeline.training.recorder import EpochMetrics, read_metrics

BUDGETS = (0.75, 2.0, 4.0)
"""Minutes of training, one after the other until the Dice is reached."""

AROUND_S = 45.0
"""That reading, preprocessing and the final validation may take around the training."""

LEAST_MINUTES = 0.3
POLL_S = 1.0


class Fold:
    """The first fold of five.

    Args:
        context: Of the part.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._began = time.monotonic()

    def train(self) -> Found:
        """Train with growing budgets; what was reached last is what the figures say."""
        context, note = self._context, ""
        data = context.hippocampus
        if context.tiny or data is None:
            data = make_like(context.work / "data", 6)
            note = "not the hippocampus: blobs made on the spot"
        if not context.tiny and context.hippocampus is None:
            yield Measured("dice", None, "the data is not at hand; name it with --data")
            return
        for budget in BUDGETS:
            # The last one has what is left, as long as that is worth it.
            minutes = min(budget, (context.left_s - AROUND_S) / 60)
            if minutes < LEAST_MINUTES and not context.tiny:
                return
            yield f"training for {minutes:.2f} min"
            folder = context.work / "runs" / f"of_{budget:g}"
            yield from self._run(data, folder, minutes)
            dice = final_dice(folder)
            yield from self._figures(folder, minutes, dice, note)
            if dice >= DICE or context.tiny:
                return

    def _run(self, data: Path, folder: Path, minutes: float) -> Iterator[Measured]:
        """Run `trivox train`, and yield the curve whenever it grows."""
        context = self._context
        budget = "max_iterations=6" if context.tiny else f"max_minutes={minutes:.3f}"
        settings = [
            f"name={folder.name}",
            f"output={folder.parent}",
            f"device={context.device}",
            f"data.root={data}",
            f"data.cache={context.work / 'cache'}",
            "training.max_minutes=null",
            f"training.{budget}",
            f"training.num_workers={0 if context.tiny else 4}",
        ]
        if context.tiny:
            settings += ["training.patch_size=[16,16,16]", "network.features=[4,8,8]"]
            settings += ["training.iterations_per_epoch=3", "training.validate_every_epochs=1"]
        command = [sys.executable, "-m", "pipeline", "train", str(ROOT / HIPPOCAMPUS), *settings]
        complaints = folder.parent / f"{folder.name}.txt"
        complaints.parent.mkdir(parents=True, exist_ok=True)
        with (
            complaints.open("wb") as said,
            subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=said) as process,
        ):
            known = 0
            while process.poll() is None:
                time.sleep(POLL_S)
                rows = validated(folder)
                if len(rows) > known:
                    known = len(rows)
                    yield Measured("curve", in_words(rows), f"budget {minutes:.2f} min")
        words = complaints.read_text("utf-8", errors="replace").strip()
        print(words, flush=True)
        if process.returncode:
            last = words.splitlines()[-1] if words else "no word"
            raise RuntimeError(f"trivox train ended with exit code {process.returncode}: {last}")

    def _figures(self, folder: Path, minutes: float, dice: float, note: str) -> Found:
        took = (time.monotonic() - self._began) / 60
        yield Measured("dice", dice, note)
        missed = f"not reached in {took:.2f} min"
        is_reached = dice >= DICE
        yield Measured("minutes", took if is_reached else None, note if is_reached else missed)
        yield Measured("budget", minutes)
        rows = read_metrics(folder / "metrics.csv")
        yield Measured("curve", in_words(validated(folder)), f"budget {minutes:.2f} min")
        yield Measured("iterations", rows[-1].iteration)
        yield Measured("wait_share", float(np.mean([row.wait_share for row in rows])))
        found = folder / "resources.json"
        if found.is_file():
            measured = json.loads(found.read_text("utf-8"))["measured"]
            yield Measured("step_s", measured["seconds_per_iteration"])
            on_gpu = self._context.device.startswith("cuda")
            yield Measured("memory_gb", measured["memory_gb"] if on_gpu else None)


def validated(folder: Path) -> list[EpochMetrics]:
    """Return the epochs of a run that were validated; none while it has written none."""
    rows = read_metrics(folder / "metrics.csv")
    return [row for row in rows if row.validation_dice is not None]


def in_words(rows: list[EpochMetrics]) -> str:
    """Return minutes and Dice of epochs."""
    return ", ".join(f"{row.elapsed_s / 60:.2f} min {row.validation_dice:.3f}" for row in rows)


def final_dice(folder: Path) -> float:
    """Return the mean Dice of a finished run."""
    with (folder / "validation" / "summary.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    wanted = (MEAN_OVER_LABELS, "dice")
    return next(float(row["mean"]) for row in rows if (row["label"], row["metric"]) == wanted)


def make_like(folder: Path, number: int) -> Path:
    """Write cases in the Decathlon's layout: bright blobs with a front and a back, in noise."""
    numbers = np.random.default_rng(0)
    size = np.array([28, 36, 28])
    places = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), -1)
    cases = []
    for index in range(number):
        middle = size / 2 + numbers.uniform(-3, 3, 3)
        inside = (((places - middle) / [6, 11, 6]) ** 2).sum(-1) < 1
        labels = np.where(inside, np.where(places[..., 1] > middle[1], 1, 2), 0).astype(np.uint8)
        image = 40 * labels + numbers.normal(100, 10, size)
        name = f"hippocampus_{index:03d}.nii.gz"
        for kind, voxels in (("imagesTr", image.astype(np.float32)), ("labelsTr", labels)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / kind / name)
        cases.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    content = {
        "name": "like the hippocampus", "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
        "numTraining": number, "numTest": 0, "training": cases, "test": [],
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    return folder
