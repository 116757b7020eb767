"""What the loops of faults stand on: a model, studies, commands, and what is counted of them."""

import csv
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np

from pipeline.model import save_model
from tests.tiny import tiny_model

SHAPE, SPACING_MM = (28, 26, 16), (3.0, 3.0, 5.0)
END_S = 240.0
"""Within which a command ends that nobody disturbs any more."""


@dataclass(frozen=True)
class Count:
    """One thing that was counted in a loop.

    Attributes:
        what: In words.
        expected: What it should be; None: only told.
        observed: What it was.
    """

    what: str
    expected: int | None
    observed: int

    @property
    def is_right(self) -> bool:
        return self.expected is None or self.expected == self.observed


@dataclass(frozen=True)
class Loop:
    """What came of one kind of fault.

    Attributes:
        name: Of the kind.
        how: What was done, in a sentence.
        counts: What was counted.
        skipped: Why it was not done; empty if it was.
        seconds: It took.
    """

    name: str
    how: str
    counts: Sequence[Count] = ()
    skipped: str = ""
    seconds: float = 0.0


@dataclass
class Ground:
    """A folder to work in, the model, and until when.

    Attributes:
        folder: For all files; removed at the end.
        model: Folder of the model.
        budget_s: Seconds for each loop; it does as many rounds as fit, and at least two.
        rng: Draws the moments.
    """

    folder: Path
    model: Path
    budget_s: float
    rng: random.Random = field(default_factory=lambda: random.Random(0))

    def rounds(self, most: int) -> "range | list[int]":
        """Give numbers of rounds as long as there is time."""
        return _Rounds(most, self.budget_s)  # type: ignore[return-value]

    def images(self, name: str, number: int, seed: int = 0) -> Path:
        """Make a folder of synthetic CT volumes: a soft-edged body with blobs."""
        folder = self.folder / name
        folder.mkdir(parents=True)
        for index in range(number):
            affine = np.diag([*SPACING_MM, 1.0])
            nib.save(nib.Nifti1Image(volume(seed + index), affine), folder / f"s{index:02d}.nii.gz")
        return folder

    def segment(self, images: Path, out: Path, *more: str) -> list[str]:
        """Return the words that segment a folder."""
        words = ["segment", str(images), "--model", str(self.model), "--out", str(out)]
        return [*words, "--device", "cpu", "admission.mode=warn", *more]


class _Rounds:
    def __init__(self, most: int, budget_s: float) -> None:
        self._most, self._end = most, time.monotonic() + budget_s

    def __iter__(self) -> "object":
        for number in range(self._most):
            if number >= 2 and time.monotonic() > self._end:
                return
            yield number


def volume(seed: int) -> np.ndarray:
    """Return voxels in Hounsfield units."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1, 1, size) for size in SHAPE), indexing="ij")
    body = -1000 + 1040 / (1 + np.exp(18 * (np.hypot(axes[0], axes[1]) - 0.75)))
    for _ in range(6):
        centre, size = rng.uniform(-0.45, 0.45, 3), rng.uniform(0.1, 0.3)
        distance = sum((axis - at) ** 2 for axis, at in zip(axes, centre, strict=True))
        body += rng.uniform(30, 150) * np.exp(-distance / size**2)
    return (body + rng.normal(0, 8, SHAPE)).astype(np.int16)


def make_model(folder: Path) -> Path:
    """Save a model of random weights that takes no time."""
    channels = [{"name": "CT", "modality": "CT"}]
    preprocessing = {"spacing_mm": [3, 3, 5], "crop_margin_mm": 0, "channels": [{"kind": "ct"}]}
    save_model(tiny_model(channels=channels, preprocessing=preprocessing), folder)
    return folder


def start(
    words: Sequence[str], environment: Mapping[str, str] | None = None, log: Path | None = None
) -> "subprocess.Popen[bytes]":
    """Start a command of Trivox in a process group of its own."""
    module = [] if words[0].startswith("benchmarks") else ["pipeline"]
    variables = {"OMP_NUM_THREADS": "1", **(environment or {})}
    settings = [f"{name}={value}" for name, value in variables.items()]
    with (log or Path(os.devnull)).open("ab") as file:
        return subprocess.Popen(
            ["env", *settings, sys.executable, "-m", *module, *words],
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


def finish(process: "subprocess.Popen[bytes]", within_s: float = END_S) -> int | None:
    """Return the exit code of a command; None: it did not end in time, and was killed."""
    try:
        return process.wait(within_s)
    except subprocess.TimeoutExpired:
        kill(process)
        return None


def kill(process: "subprocess.Popen[bytes]") -> None:
    """Send SIGKILL to a command's own process, as the system does when memory runs out."""
    process.send_signal(signal.SIGKILL)
    process.wait()


def masks(out: Path) -> dict[str, str]:
    """Return the SHA-256 of the voxels and header of each mask by its name."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in out.glob("*_seg.nii.gz")
        if path.is_file()
    }


def states(out: Path, table: str = "cohort.csv", column: str = "status") -> Counter[str]:
    """Return the number of rows of a table in each state; none if there is no table."""
    try:
        with (out / table).open(encoding="utf-8") as file:
            return Counter(row[column] for row in csv.DictReader(file))
    except FileNotFoundError:
        return Counter()


def leftovers(out: Path) -> int:
    """Return the number of temporary files and folders below an output folder."""
    names = (path.name for path in out.rglob("*"))
    return sum(
        name.startswith(".writing-") or name.endswith((".partial", ".tmp")) for name in names
    )


def num_equal(found: Mapping[str, str], reference: Mapping[str, str]) -> int:
    """Return how many are the same."""
    return sum(reference.get(name) == value for name, value in found.items())
