"""Measure the conditional random field and rules; write benchmarks/postprocessing.md.

    taskset -c 1 python -m benchmarks.postprocessing --peer PYTHON [--searched NAME=MODEL ...]

PYTHON is that of an environment with pydensecrf2 (it compiles on Python 3.11:
`python3.11 -m venv peer && peer/bin/pip install numpy pydensecrf2`). Everything runs on one core.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.common import machine, table
from benchmarks.crf_cases import MANY, MANY_SPACING_MM, Problem, make_abdomen, make_many
from benchmarks.crf_searched import searched_section
from benchmarks.rules import page_section as rules_section
from pipeline.evaluation import score_case
from pipeline.postprocessing.crf import Crf, CrfConfig
from pipeline.postprocessing.crf.refine import uncertain_of_labels
from pipeline.system.memory import PeakMeter, give_back_freed, resident_bytes
from pipeline.volume import LabelMap

PAGE = Path(__file__).with_suffix(".md")
PARAMETERS = {
    "position": 5.0, "intensity": 20.0, "look_weight": 10.0, "smooth": 2.0, "smooth_weight": 2.0,
    "iterations": 5,
}  # fmt: skip
"""Reach in voxels and HU, weights, rounds: of the report's problem B."""

ROUNDS = 3
MANY_CLASSES = 100
MANY_BAND_MM = 2.0
MB = 1e6
GB = 1e9

Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Run:
    """What one process measured, and its labels."""

    seconds: float
    extra_bytes: int
    labels: Labels


def against_peer(peer: str, folder: Path) -> Iterator[str]:
    """Yield the lines of the comparison with pydensecrf2."""
    problem = make_abdomen()
    before = problem.probability_CIJK.argmax(axis=0).astype(np.uint8)
    yield from (
        "## Dense CRF against pydensecrf2",
        "",
        "A synthetic CT of 160 x 160 x 96 voxels and 5 classes (`crf_cases.make_abdomen`), five "
        "rounds, reach 5 voxels and 20 HU with weight 10, and 2 voxels with weight 2. Set-up is "
        "part of all times; each run is a process of its own, the sides take turns, medians of "
        f"{ROUNDS}. Ours runs on a corner of the problem first, so that compiled code is loaded. "
        "Before: " + _quality(before, problem) + ".",
        "",
    )
    headings = [
        "normalisation", "voxels", "", "s", "of pydensecrf2", "extra MB", "of the probabilities",
        "Dice, HD95 voxels", "changed voxels that agree",
    ]  # fmt: skip
    rows: list[Sequence[str]] = []
    for normalisation, copies in (("row", 1), ("symmetric", 1), ("row", 2)):
        _store(problem, copies, folder)
        rows += _compare(peer, folder, problem, normalisation, copies)
    yield from table(headings, rows)
    yield ""


def _compare(
    peer: str, folder: Path, problem: Problem, normalisation: str, copies: int
) -> Iterator[Sequence[str]]:
    ours = (sys.executable, "-m", "benchmarks.crf_worker")
    sides = {
        "pydensecrf2": (peer, str(Path(__file__).with_name("crf_peer.py")), normalisation),
        "torch": (*ours, normalisation, "torch"),
        "numba": (*ours, normalisation, "numba"),
    }
    runs: dict[str, list[Run]] = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, words in sides.items():
            runs[name].append(_run(words, folder))
            print(normalisation, copies, name, round(runs[name][-1].seconds, 2), flush=True)
    reference = runs["pydensecrf2"][0].labels
    before = np.tile(problem.probability_CIJK.argmax(axis=0), (copies,) * 3)
    peer_s = statistics.median(run.seconds for run in runs["pydensecrf2"])
    for name, of_side in runs.items():
        seconds = statistics.median(run.seconds for run in of_side)
        extra = statistics.median(run.extra_bytes for run in of_side)
        labels = of_side[0].labels
        changed = (labels != before) | (reference != before)
        size = tuple(n * copies for n in problem.truth_IJK.shape)
        yield (
            normalisation,
            f"{np.prod(size) / 1e6:.1f} million",
            name,
            f"{seconds:.2f}",
            f"{seconds / peer_s:.2f}",
            f"{extra / MB:.0f}",
            f"{extra / (problem.probability_CIJK.nbytes * copies**3):.2f}",
            _quality(labels, problem) if copies == 1 else "",
            f"{(labels == reference)[changed].mean():.2%}",
        )


def _store(problem: Problem, copies: int, folder: Path) -> None:
    np.savez(
        folder / "problem.npz",
        image=problem.image_IJK,
        shares=problem.probability_CIJK,
        copies=copies,
        **PARAMETERS,
    )


def _run(words: Sequence[str], folder: Path) -> Run:
    """Run a side on the stored problem."""
    at = next(n for n, word in enumerate(words) if word in ("row", "symmetric"))
    paths = [str(folder / "problem.npz"), str(folder / "out.npz")]
    command = [*words[:at], *paths, *words[at:]]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = json.loads(output.splitlines()[-1])
    labels = np.load(folder / "out.npz")["labels"]
    return Run(found["s"], found["extra_bytes"], labels)


def _quality(labels: Labels, problem: Problem) -> str:
    names = {str(value): value for value in range(1, 5)}
    affine = np.eye(4)
    scores = score_case("", LabelMap(labels, affine), LabelMap(problem.truth_IJK, affine), names)
    dice = np.mean([score.dice for score in scores])
    return f"{dice:.4f}, {np.mean([score.hd95_mm for score in scores]):.2f}"


def many_classes() -> Iterator[str]:
    """Yield the lines of the problem with a hundred classes."""
    yield from (
        "## A hundred classes",
        "",
        f"Organs that fill an ellipsoid, labels off by some voxels, a band of {MANY_BAND_MM:g} mm "
        "to each side of each boundary (`crf_cases.make_many`), 5 rounds, numba, one core, at "
        "most 4 GB. Float32 probabilities of all classes would take 31 GB.",
        "",
    )
    rows, seconds = [], {}
    for depth in (MANY[2] // 2, MANY[2]):
        shape = (*MANY[:2], depth)
        image, labels = make_many(MANY_CLASSES, shape)
        values = list(range(MANY_CLASSES))
        start = time.perf_counter()
        uncertain = uncertain_of_labels(labels, values, MANY_SPACING_MM, MANY_BAND_MM)
        band_s = time.perf_counter() - start
        crf = Crf(
            CrfConfig(theta_position_mm=5, theta_intensity=1), max_bytes=4 * 10**9,
            intensity_unit=20.0,
        )  # fmt: skip
        give_back_freed()
        before = resident_bytes()
        with PeakMeter() as meter:
            start = time.perf_counter()
            found = crf.refine_uncertain(image[None], labels, uncertain, values, MANY_SPACING_MM)
            seconds[depth] = time.perf_counter() - start
        each_ns = 1e9 * seconds[depth] / labels.size / MANY_CLASSES / crf.config.iterations
        rows.append((
            " x ".join(map(str, shape)), f"{len(uncertain.voxel_N) / labels.size:.1%}",
            f"{band_s:.0f}", f"{seconds[depth]:.0f}", f"{each_ns:.1f}",
            f"{(meter.peak_bytes - before) / GB:.2f}", f"{np.mean(found != labels):.2%}",
        ))  # fmt: skip
        print(rows[-1], flush=True)
    yield from table(
        ["voxels", "in the band", "s to find the band", "s of the field",
         "ns a voxel, class and round", "extra GB", "changed"], rows,
    )  # fmt: skip
    half, whole = seconds.values()
    yield from ("", f"Twice the volume took {whole / half:.2f} times as long.", "")


def main() -> None:
    """Measure everything and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", help="Python with pydensecrf2")
    parser.add_argument("--searched", nargs="*", default=[], metavar="NAME=MODEL")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = ["# Post-processing", "", f"`python -m benchmarks.postprocessing` on {machine()}.", ""]
    if options.peer:
        with tempfile.TemporaryDirectory() as folder:
            lines += against_peer(options.peer, Path(folder))
    lines += many_classes()
    lines += [*rules_section(), ""]
    lines += searched_section(dict(word.split("=", 1) for word in options.searched))
    lines += ["Training through the field: see [crf_training.md](crf_training.md)."]
    PAGE.write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
