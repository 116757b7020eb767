"""Lay slices on a regular grid, by their positions, or say why they form none. RAS begins here.

A regular stack is no proof of one volume: a second pass half a step further on fills the gaps of
the first. What a scan counts goes up once along one pass, or starts anew where the next range of
the body begins; it does not take turns.

Source: DICOM PS3.3, C.7.6.1 (InstanceNumber, AcquisitionNumber, AcquisitionTime).

Slices are sorted along their normal. The third axis of the grid is the step between the positions
themselves, so slices that a tilted gantry shifts against each other keep their places (a sheared
grid); SliceThickness and SpacingBetweenSlices are never asked.

Source: DICOM PS3.3, C.7.6.2.1.1 (position, orientation and spacing of an image plane).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt

from pipeline.study.dicom.instance import TRAITS, Slice
from pipeline.study.dicom.problems import Problem
from pipeline.study.itk import LPS_TO_RAS
from pipeline.volume import Grid

COUNTED = ("AcquisitionNumber", "AcquisitionTime")
"""What is the same for all slices of a pass, and another for the next."""


def taking_turns(slices: Sequence[Slice]) -> list[str]:
    """Return which of `COUNTED` goes to and fro along a stack.

    Args:
        slices: In geometric order.
    """
    columns = {name: [one.traits[TRAITS.index(name)] for one in slices] for name in COUNTED}
    return [
        name
        for name, values in columns.items()
        if None not in values and sum(1 for _ in groupby(values)) > len(set(values))
    ]


def count_repeats(slices: Sequence[Slice]) -> int:
    """Return how often an image number is there, if the slices that share it take turns, else 1.

    Ranges of the body that are numbered one after the other, each from the start, do not; nor do
    images that all have one number, which is none.

    Args:
        slices: In geometric order.
    """
    numbers = [one.number for one in slices if one.number is not None]
    if len(numbers) < len(slices) or len(set(numbers)) == 1:
        return 1
    most = max(map(numbers.count, set(numbers)))
    ranges: list[list[float]] = [[]]
    for number in numbers:
        if number in ranges[-1]:
            ranges.append([])
        ranges[-1].append(number)
    in_order = all(each in (sorted(each), sorted(each, reverse=True)) for each in ranges)
    return 1 if most == 1 or (len(ranges) == most and in_order) else most


MIN_SLICES = 3
"""Fewer cannot show that their distances are regular."""

ORIENTATION_TOLERANCE = 1e-3
"""Largest difference of direction cosines within a volume: 0.25 mm at 250 mm from the centre.

Headers round cosines to 1e-6; slices that were planned apart differ by far more.
"""

UNIT_TOLERANCE = 1e-2
"""Largest deviation of row and column directions from unit vectors at a right angle."""

SPACING_TOLERANCE = 1e-3
"""Largest relative difference of pixel spacings within a volume: half a voxel over 500."""

POSITION_TOLERANCE = 0.2
"""Largest distance of a slice from its place on the grid, as a share of the distance of slices.

Headers that round to 0.1 mm move oblique slices 0.5 mm apart by up to 0.09 mm; a missing slice
moves its neighbours by 0.22 of a typical step or more, wherever it is missing.
"""

POSITION_TOLERANCE_MM = 0.1
"""The same in mm, which is what counts for thick slices."""

SAME_POSITION_MM = 0.01
"""Slices closer than this lie at one position: no scanner makes distances of 10 micrometres."""

MAX_TILT_DEGREES = 45.0
"""Gantries tilt by 30 degrees at most; beyond this, positions do not belong to the orientation."""

_MOST_SPACINGS, _FEWEST_STEPS = 3, 2
"""Parts of a stack with distances of their own, and distances in each; a lost slice makes one."""

_GAP_REMEDY = "Export the series again with all of its images."


@dataclass(frozen=True)
class Stack:
    """Slices on a regular grid.

    Attributes:
        slices: In geometric order, along the normal.
        grid: RAS+; axis I runs along the rows of pixels, J along the columns, K over the slices.
    """

    slices: tuple[Slice, ...]
    grid: Grid


def stack_slices(slices: Sequence[Slice]) -> Stack | Problem:
    """Lay slices on the grid that their headers describe.

    Returns:
        The stack, or why there is none.
    """
    problem = _unlike(slices)
    if problem is not None:
        return problem
    axes = np.array([s.axes for s in slices], dtype=np.float64).reshape(-1, 2, 3)
    positions = np.array([s.position_mm for s in slices], dtype=np.float64)
    normal = np.cross(*axes[0])
    if (
        np.abs(np.linalg.norm(axes[0], axis=1) - 1).max() > UNIT_TOLERANCE
        or abs(axes[0][0] @ axes[0][1]) > UNIT_TOLERANCE
    ):
        return Problem("ImageOrientationPatient does not hold two unit vectors at a right angle")
    order = np.argsort(positions @ normal, kind="stable")
    positions = positions[order]
    problem = _irregular(positions, normal / np.linalg.norm(normal))
    if problem is not None:
        return problem
    return Stack(tuple(slices[index] for index in order), _grid(slices[order[0]], positions))


def _unlike(slices: Sequence[Slice]) -> Problem | None:
    """Say what keeps slices from being parallel planes of one size."""
    for what, name in (
        ("position_mm", "ImagePositionPatient"),
        ("axes", "ImageOrientationPatient"),
        ("pixel_spacing_mm", "PixelSpacing"),
    ):
        without = sum(getattr(s, what) is None for s in slices)
        if without:
            return Problem(f"{without} of {len(slices)} images have no valid {name}")
    if len(slices) < MIN_SLICES:
        found = f"it has {len(slices)} slice(s), and a volume needs {MIN_SLICES}"
        return Problem(found, "Give a series that covers a volume.")
    sizes = sorted({s.size for s in slices})
    if len(sizes) > 1:
        shown = ", ".join(f"{rows} x {columns}" for rows, columns in sizes[:3])
        return Problem(f"its images have {len(sizes)} sizes ({shown})")
    spacings_mm = np.array([s.pixel_spacing_mm for s in slices], dtype=np.float64)
    if spacings_mm.min() <= 0:
        return Problem(f"PixelSpacing is {spacings_mm.min():g} mm")
    if np.ptp(spacings_mm, axis=0).max() > SPACING_TOLERANCE * spacings_mm.max():
        low, high = spacings_mm.min(), spacings_mm.max()
        return Problem(f"PixelSpacing differs between its images, from {low:g} to {high:g} mm")
    axes = np.array([s.axes for s in slices], dtype=np.float64)
    if np.abs(axes - axes[0]).max() > ORIENTATION_TOLERANCE:
        return Problem("its slices are not parallel (several orientations)")
    return None


def _irregular(
    positions: npt.NDArray[np.float64], normal: npt.NDArray[np.float64]
) -> Problem | None:
    """Say what keeps sorted positions from being equally far apart along one line."""
    count = len(positions)
    steps_mm = np.diff(positions @ normal)
    repeated = int(np.count_nonzero(steps_mm <= SAME_POSITION_MM))
    if repeated:
        found = f"{count} slices lie at {count - repeated} positions"
        return Problem(found, "Give each volume (phase, echo, b-value) as a series of its own.")
    typical_mm = float(np.median(steps_mm))
    tolerance_mm = min(POSITION_TOLERANCE * typical_mm, POSITION_TOLERANCE_MM)
    step = (positions[-1] - positions[0]) / (count - 1)
    # A least-squares line, since the ends are rounded as well as the others.
    places = np.arange(count) - (count - 1) / 2
    slope = places @ positions / (places @ places)
    fitted = positions.mean(axis=0) + places[:, None] * slope
    if np.linalg.norm(positions - fitted, axis=1).max() > tolerance_mm:
        return _uneven(positions, steps_mm, typical_mm, tolerance_mm)
    tilt = float(np.degrees(np.arccos(min(1.0, float(step @ normal / np.linalg.norm(step))))))
    if tilt > MAX_TILT_DEGREES:
        return Problem(f"its positions run at {tilt:.0f} degrees to the normal of its slices")
    return None


def _uneven(
    positions: npt.NDArray[np.float64],
    steps_mm: npt.NDArray[np.float64],
    typical_mm: float,
    tolerance_mm: float,
) -> Problem:
    runs = _runs(steps_mm, 2 * tolerance_mm)
    if 2 <= len(runs) <= _MOST_SPACINGS and min(map(len, runs)) >= _FEWEST_STEPS:
        return _several_spacings(runs)
    multiples = np.rint(steps_mm / typical_mm)
    missing = int(multiples.sum()) - len(steps_mm)
    if missing > 0 and np.abs(steps_mm - multiples * typical_mm).max() <= 2 * tolerance_mm:
        first = int(np.argmax(multiples > 1)) + 1
        found = (
            f"{missing} slice(s) are missing among {len(positions)}, the first after slice {first} "
            f"(distances of {steps_mm.min():.4g} to {steps_mm.max():.4g} mm)"
        )
        return Problem(found, _GAP_REMEDY)
    if np.ptp(steps_mm) > tolerance_mm:
        found = f"the distance of its slices varies from {steps_mm.min():.4g} to "
        remedy = "Give a reconstruction whose slices are equally far apart."
        return Problem(f"{found}{steps_mm.max():.4g} mm", remedy)
    return Problem("its slices are shifted against each other irregularly")


def _runs(steps_mm: npt.NDArray[np.float64], tolerance_mm: float) -> list[npt.NDArray[np.float64]]:
    """Part distances where one differs from the one before."""
    changes = np.flatnonzero(np.abs(np.diff(steps_mm)) > tolerance_mm) + 1
    return np.split(steps_mm, changes)


def _several_spacings(runs: Sequence[npt.NDArray[np.float64]]) -> Problem:
    """Say of distances that change once or twice where they do: they were planned so."""
    ends = np.cumsum([len(run) for run in runs]) + 1
    texts = [
        f"{run.mean():.4g} mm up to slice {end}" for run, end in zip(runs[:-1], ends, strict=False)
    ]
    found = f"the distance of its slices is {', '.join(texts)} and {runs[-1].mean():.4g} mm from "
    remedy = "Give each part as a series of its own, or a reconstruction with one distance."
    return Problem(f"{found}there on", remedy)


def _grid(first: Slice, positions: npt.NDArray[np.float64]) -> Grid:
    rows, columns = first.size
    between_rows_mm, between_columns_mm = first.pixel_spacing_mm or (0.0, 0.0)
    directions = np.array(first.axes, dtype=np.float64).reshape(2, 3)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    affine_lps = np.eye(4)
    # Along a row, from one pixel to the next, is from column to column.
    affine_lps[:3, 0] = directions[0] * between_columns_mm
    affine_lps[:3, 1] = directions[1] * between_rows_mm
    affine_lps[:3, 2] = (positions[-1] - positions[0]) / (len(positions) - 1)
    affine_lps[:3, 3] = positions[0]
    # Adding zero turns -0.0 into 0.0, so that equal affines have equal bits.
    affine = np.asarray(LPS_TO_RAS * affine_lps + 0.0, dtype=np.float64)
    return Grid((columns, rows, len(positions)), affine)
