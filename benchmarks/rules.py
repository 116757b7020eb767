"""Measure the clean-up of components: all labels in one pass, against a loop over labels.

    taskset -c 0 python -m benchmarks.rules

Prints a section of Markdown. Each side runs in its own process, on the same label map: organs in a
body, and specks of all labels around and within them. The masks must be identical.
"""

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cc3d
import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import KDTree

from benchmarks.common import machine, table
from pipeline.postprocessing import Rule, apply_rules
from pipeline.system.memory import PeakMeter, give_back_freed
from pipeline.volume import Grid

SHAPE = (512, 512, 800)
SPACING_MM = (0.8, 0.8, 1.0)
NUM_LABELS = 118
NUM_ORGANS = 114
"""The labels above are there as specks only, so that they must vanish."""
NUM_SPECKS = 20_000
MIN_VOLUME_MM3 = 50.0
BLOCK = 4
"""Edge in voxels of the blocks that organs are made of."""
ROUNDS = 3
GB = 1e9

Labels = npt.NDArray[np.uint8]
Values = Sequence[int]


def label_map(shape: tuple[int, int, int]) -> Labels:
    """Return organs, as cells around random points in an ellipsoid with gaps, and specks."""
    rng = np.random.default_rng(0)
    axes = [np.linspace(-1, 1, length // BLOCK) for length in shape]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    body = np.square(points).sum(axis=1) < 0.8
    organs = rng.normal(size=(NUM_ORGANS, 3))
    organs /= np.linalg.norm(organs, axis=1, keepdims=True)
    organs *= 0.85 * rng.random((NUM_ORGANS, 1)) ** (1 / 3)
    distances, nearest = KDTree(organs).query(points[body], k=2)
    coarse = np.zeros(len(points), np.uint8)
    coarse[body] = np.where(distances[:, 0] < 0.75 * distances[:, 1], nearest[:, 0] + 1, 0)
    labels = coarse.reshape([len(axis) for axis in axes])
    for axis in range(3):
        labels = labels.repeat(BLOCK, axis)
    for _ in range(NUM_SPECKS):
        edges = rng.integers(1, 4, 3)
        i, j, k = rng.integers(0, np.array(labels.shape) - edges)
        value = rng.integers(1, NUM_LABELS + 1)
        labels[i : i + edges[0], j : j + edges[1], k : k + edges[2]] = value
    return labels


def one_pass(labels: Labels, _values: Values) -> Labels:
    """Clean up as the pipeline does."""
    rules = (Rule(label="*", keep_largest=1), Rule(label="*", min_volume_mm3=MIN_VOLUME_MM3))
    names = {f"label {value}": value for value in range(1, NUM_LABELS + 1)}
    grid = Grid(labels.shape, np.diag([*SPACING_MM, 1.0]))
    return apply_rules(labels, grid, names, rules).labels_IJK


def loop_with_cc3d(labels: Labels, values: Values) -> Labels:
    """Clean up one label after the other, as users of cc3d write it."""
    cleaned = np.zeros_like(labels)
    for value in values:
        components = cc3d.connected_components(labels == value, connectivity=26)
        sizes = cc3d.statistics(components)["voxel_counts"]
        _write_largest(cleaned, components, sizes, value)
    return cleaned


def loop_with_scipy(labels: Labels, values: Values) -> Labels:
    """Clean up one label after the other, as users of scipy write it."""
    cleaned = np.zeros_like(labels)
    for value in values:
        components, _ = ndimage.label(labels == value, np.ones((3, 3, 3)))
        _write_largest(cleaned, components, np.bincount(components.ravel()), value)
    return cleaned


def _write_largest(
    cleaned: Labels,
    components: npt.NDArray[np.integer],
    sizes: npt.NDArray[np.integer],
    value: int,
) -> None:
    if len(sizes) > 1:
        largest = int(sizes[1:].argmax()) + 1
        if sizes[largest] * np.prod(SPACING_MM) >= MIN_VOLUME_MM3:
            cleaned[components == largest] = value


@dataclass(frozen=True)
class Side:
    """A way to clean up, and how much of it to measure.

    Attributes:
        name: For the table.
        clean: From a label map and label values to a label map.
        every: Only every so many labels are done, and the time is multiplied.
        rounds: How often; the median counts.
    """

    name: str
    clean: Callable[[Labels, Values], Labels]
    every: int = 1
    rounds: int = 1

    @property
    def values(self) -> list[int]:
        return list(range(1, NUM_LABELS + 1, self.every))


SIDES = (
    Side("all labels at once (`apply_rules`)", one_pass, rounds=ROUNDS),
    Side("a loop over labels with cc3d", loop_with_cc3d),
    Side("a loop over labels with scipy", loop_with_scipy, every=10),
)


def measure(side: int, shape: tuple[int, int, int], out: Path) -> tuple[float, int]:
    """Run a side; write its mask and return its seconds and its peak of extra memory in bytes."""
    chosen = SIDES[side]
    labels = label_map(shape)
    seconds = []
    peak = 0
    for _ in range(chosen.rounds):
        give_back_freed()
        with PeakMeter() as idle:
            pass
        with PeakMeter() as meter:
            start = time.perf_counter()
            cleaned = chosen.clean(labels, chosen.values)
            seconds.append(time.perf_counter() - start)
        peak = max(peak, meter.peak_bytes - idle.peak_bytes)
        np.save(out, cleaned)
        del cleaned
    return statistics.median(seconds) * NUM_LABELS / len(chosen.values), peak


def page_section(shape: tuple[int, int, int] = SHAPE) -> list[str]:
    """Measure all sides; return the lines of a section of Markdown."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        expected = None
        first_s = 0.0
        for number, side in enumerate(SIDES):
            out = Path(folder) / "mask.npy"
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                seconds, peak = pool.apply(measure, (number, shape, out))
            found = np.load(out)
            if expected is None:
                expected, first_s = found, seconds
            asked = np.zeros(256, bool)
            asked[side.values] = True
            if not np.array_equal(np.where(asked[expected], expected, 0), found):
                raise AssertionError(f"{side.name} gives another mask")
            about = "about " if side.every > 1 else ""
            rows.append(
                (side.name, f"{about}{seconds:.1f}", f"{seconds / first_s:.1f}", f"{peak / GB:.2f}")
            )
    return [
        "## Components of all labels",
        "",
        f"`python -m benchmarks.rules` on {machine()}.",
        "",
        f"The largest component of each of {NUM_LABELS} labels, if it has at least "
        f"{MIN_VOLUME_MM3:g} mm^3, on {' x '.join(map(str, shape))} voxels with {NUM_SPECKS} "
        f"specks. The masks are identical, voxel by voxel. The loop with scipy was run for every "
        f"{SIDES[-1].every}th label, and its time multiplied.",
        "",
        *table(["", "s", "times as long", "peak of extra memory, GB"], rows),
    ]


def main() -> None:
    """Print the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=SHAPE)
    i, j, k = parser.parse_args().shape
    sys.stdout.write("\n".join(page_section((i, j, k))) + "\n")


if __name__ == "__main__":
    main()
