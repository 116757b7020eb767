"""Measure inference: windows per second, large volumes with many classes, whole studies.

    .venv/bin/python -m benchmarks.inference --data ../shared/data
        [--model runs/phantom_ct/model --images data/phantom_ct/images]
        [--peer NNUNET_ENV/bin/python --hippocampus MODEL]

Writes benchmarks/inference.md. Each measurement is a process of its own, the sides take turns, and
the faster of two rounds counts, since other work can only slow one down. About 40 minutes on two
cores, half of it for nnU-Net, which is left out without `--peer`.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import machine, table
from benchmarks.inference_cases import (
    NATIVE_SHAPE,
    NATIVE_SPACING_MM,
    WINDOW,
    WORKING_MM,
    make_large_ct,
)
from pipeline.inference.cells import CellLayout
from pipeline.inference.memory import cells_bytes
from pipeline.inference.windows import Order, WindowGrid

PAGE = Path("benchmarks/inference.md")
ROUNDS = 2
CLASSES = (2, 30, 118)
MAX_BYTES = 4 * 10**9
SIDES = {
    "MONAI, float32, 4 windows at once": ("--side", "monai", "--batch", "4"),
    "MONAI, float32, one by one": ("--side", "monai", "--batch", "1"),
    "Trivox, float32": ("--precision", "fp32"),
    "Trivox, bfloat16": ("--precision", "bf16"),
}

Found = dict[str, Any]


def main() -> None:
    """Run all measurements and write the page."""
    parser = argparse.ArgumentParser(description="Measure inference.")
    parser.add_argument("--data", type=Path, required=True, help="folder with cases/totalseg")
    parser.add_argument("--model", type=Path, default=Path("runs/phantom_ct/model"))
    parser.add_argument("--images", type=Path, default=Path("data/phantom_ct/images"))
    parser.add_argument("--peer", type=Path, help="Python of an environment with nnU-Net")
    parser.add_argument("--hippocampus", type=Path, help="a model of the hippocampus")
    options = parser.parse_args()
    lines = [
        "# Inference, measured",
        "",
        f"`python -m benchmarks.inference` on {machine()}.",
        "",
        *windows(options.model, options.images),
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines += large(options.data, folder)
    if options.peer is not None:
        from benchmarks.inference_nnunet import compare

        lines += [
            # One level below this page's own headings.
            f"#{line}" if line.startswith("#") else line
            for line in compare(options.peer, options.data, options.hippocampus)
        ]
    if not torch.cuda.is_available():
        lines += ["", "## On a GPU", "", "Nothing here was run on a GPU."]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


def windows(model: Path, images: Path) -> list[str]:
    """Compare windows per second with MONAI's sliding window, and labels too."""
    rates: dict[str, float] = {}
    for _ in range(ROUNDS):
        for name, words in SIDES.items():
            rate = measure("windows", *words)["windows_per_s"]
            rates[name] = max(rate, rates.get(name, 0.0))
    first, second = (rates[name] for name in list(SIDES)[:2])
    rows = [
        (name, f"{rate:.2f}", f"{rate / first:.2f}", f"{rate / second:.2f}")
        for name, rate in rates.items()
    ]
    agreed = {
        precision: measure(
            "agreement", "--model", str(model), "--images", str(images), "--precision", precision
        )
        for precision in ("fp32", "bf16")
    }
    return [
        "## Windows per second",
        "",
        "A U-Net with 32 to 320 features, windows of 96 x 96 x 96, overlap 0.5, Gaussian, against "
        "MONAI's `sliding_window_inference` and `DynUNet` with the same weights.",
        "",
        *table(("side", "windows/s", "ratio to the first", "ratio to the second"), rows),
        "",
        "Share of foreground voxels (of either mask) with the labels that MONAI's call gives in "
        "float32, over 20 phantom CTs and the model that `make train` leaves: "
        + ", ".join(f"{key} {value['agreement']:.4%}" for key, value in agreed.items())
        + f" of {agreed['fp32']['foreground']}.",
        "",
    ]


def large(data: Path, folder: Path) -> list[str]:
    """Segment 512 x 512 x 800 voxels with many classes."""
    make_large_ct(data / "cases/totalseg/example_ct.nii.gz", folder / "images" / "large.nii.gz")
    studies = {
        number: measure(
            "study", "--classes", str(number), "--folder", str(folder), "--precision", "bf16",
            "--max-bytes", str(MAX_BYTES),
        )
        for number in CLASSES
    }  # fmt: skip
    ways = {
        logits: measure(
            "way_back", "--classes", str(CLASSES[-1]), "--logits", logits, "--data", str(data),
            "--folder", str(folder),
        )["seconds"]
        for logits in ("labels", "random")
    }  # fmt: skip
    network = studies[CLASSES[-1]]["seconds"]["network"]
    return [
        "## A large study with many classes",
        "",
        "512 x 512 x 800 voxels at 0.8 x 0.8 x 1 mm, files in, masks out, by a U-Net with 32 to "
        "320 features and random weights at 1.5 mm, windows of 96, `--max-memory 4GB`, bfloat16.",
        "",
        *study_table(studies),
        "",
        "Predicted and measured: the peak while the network runs. All: of the whole process, "
        "reading and resampling the volume included. Only the cells (sums of logits that windows "
        "still touch) and the logits of one window grow with the classes; the sums are float16 "
        "where float32 would not fit:",
        "",
        *formula(),
        "",
        "The way back by itself, for 118 classes, where a stand-in for the network gives the "
        "logits; the last column is its share of what the U-Net took on the same windows.",
        "",
        *table(
            ("logits", "stitch, s", "resample and argmax, s", "write, s", "last two / network"),
            [way_row(name, seconds, network) for name, seconds in ways.items()],
        ),
        "",
    ]


def study_table(studies: dict[int, Found]) -> list[str]:
    """Return memory and times by number of classes."""
    rows = [
        (
            str(number),
            *(f"{found['memory_gb'][kind]:.2f}" for kind in ("predicted", "measured")),
            f"{found['peak_bytes'] / 1e9:.2f}",
            *(f"{seconds:.1f}" for seconds in found["seconds"].values()),
        )
        for number, found in studies.items()
    ]
    stages = list(next(iter(studies.values()))["seconds"])
    heading = ("classes", "predicted, GB", "measured, GB", "all, GB")
    return table((*heading, *(f"{stage}, s" for stage in stages)), rows)


def formula() -> list[str]:
    """Return what the cells take by the formula of `pipeline/inference/memory.py`."""
    size = [
        round(n * mm / WORKING_MM) for n, mm in zip(NATIVE_SHAPE, NATIVE_SPACING_MM, strict=True)
    ]
    i, j, k = size
    grid = WindowGrid.lay((i, j, k), WINDOW, 0.5)
    layout = CellLayout(grid, Order.of(grid.size))
    types = (torch.float32, torch.float16)
    rows = [
        (
            str(number),
            f"{layout.num_alive(1)} x {layout.voxels_of_largest} x ({number} x b + 4)",
            *(f"{cells_bytes(layout, number, 1, dtype) / 1e9:.2f}" for dtype in types),
            f"{4 * number * i * j * k / 1e9:.2f}",
            f"{4 * number * math.prod(NATIVE_SHAPE) / 1e9:.1f}",
        )
        for number in CLASSES
    ]
    heading = (
        "classes",
        "cells alive x voxels of one x (classes x b + 4) bytes",
        "b = 4 (float32), GB",
        "b = 2 (float16), GB",
        "whole working volume, float32, GB",
        "whole native volume, float32, GB",
    )
    return table(heading, rows)


def way_row(name: str, seconds: Found, network: float) -> tuple[str, ...]:
    """Return a row of the way back."""
    words = {"labels": "of a real label map", "random": "random: no class can be left out"}
    back = seconds["resample"] + seconds["write"]
    parts = (seconds["stitch"], seconds["resample"], seconds["write"])
    return (words[name], *(f"{part:.1f}" for part in parts), f"{back / network:.0%}")


def measure(*words: str) -> Found:
    """Run the worker in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.inference_worker", *words]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    sys.stderr.write(f"{' '.join(words)}: {run.stdout}")
    found: Found = json.loads(run.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
