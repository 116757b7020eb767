"""What a header says of spacing and of the unit of length, in all of the places where it says it.

Programs differ in the place that they look at, so a file whose statements differ is measured in two
ways. What is used is stated; what disagrees with it is a warning, or ends the reading where nothing
says which one is meant.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.errors import StudyError
from pipeline.study.header import PLACE_TOLERANCE_MM, qform_error_mm
from pipeline.volume import Grid

NO_SPACING = "header gives no spacing; 1 mm is taken"

_MOST_PERCENT = 1000
_MILLIMETRES = {"mm", "millimeter", "millimetre", "millimeters", "millimetres"}
_UNSTATED = {"", "?", "???", "none", "unknown"}
_OTHER_LENGTHS = {
    **dict.fromkeys(("m", "meter", "metre", "meters", "metres"), "metre"),
    **dict.fromkeys(("cm", "centimeter", "centimetre", "centimeters", "centimetres"), "centimetre"),
    **dict.fromkeys(
        ("um", "µm", "μm", "micron", "microns", "micrometer", "micrometre", "micrometers"), "micron"
    ),
    **dict.fromkeys(("nm", "nanometer", "nanometre", "nanometers"), "nanometre"),
    **dict.fromkeys(("in", "inch", "inches"), "inch"),
}


def compare_spacing(grid: Grid, used: str, stated: Mapping[str, Sequence[float]]) -> list[str]:
    """Return a warning for each statement of the spacing that disagrees with the grid's.

    Args:
        grid: As it is used, in mm.
        used: What it was read from.
        stated: Spacing along I, J, K in mm, by what it was read from.
    """
    by_grid = np.array(grid.spacing_mm)
    warnings = []
    for name, spacing_mm in stated.items():
        spacing = np.array(spacing_mm, dtype=np.float64)
        if not (np.isfinite(spacing) & (spacing > 0)).all():
            warnings.append(f"{name} gives no spacing ({_times(spacing)}); {used} is used")
        elif (np.abs(spacing - by_grid) * grid.shape > PLACE_TOLERANCE_MM).any():
            percent = float(100 * abs(spacing.prod() / by_grid.prod() - 1))
            apart = f"{percent:.0f}" if percent < _MOST_PERCENT else f"over {_MOST_PERCENT}"
            warnings.append(
                f"spacing is {_times(spacing)} mm by {name}, but {_times(by_grid)} mm by {used}, "
                f"{apart} % of volume apart; {used} is used"
            )
    return warnings


def compare_shear(grid: Grid) -> list[str]:
    """Return a warning if programs that place NIfTI files without shear put this grid elsewhere."""
    error_mm = qform_error_mm(grid)
    if error_mm <= PLACE_TOLERANCE_MM:
        return []
    return [
        "NIfTI masks on sheared voxel axes are not for programs built on ITK (ITK-SNAP, 3D Slicer, "
        f"SimpleITK): they refuse them, or place them up to {error_mm:.3g} mm off"
    ]


def check_unit(path: Path, name: str, units: Sequence[str]) -> list[str]:
    """Refuse lengths that are not in mm, in formats whose readers take all of them for mm.

    Returns:
        A warning if a unit is not known.

    Raises:
        StudyError: If a unit is another one of length.
    """
    for unit in units:
        word = unit.strip().lower()
        if word in _OTHER_LENGTHS:
            raise StudyError(
                path.name,
                f"{name} says {_OTHER_LENGTHS[word]}, but other programs take the numbers for mm",
                "Convert the lengths in the header to mm, or correct the unit if they are in mm.",
            )
    if all(unit.strip().lower() in _MILLIMETRES | _UNSTATED for unit in units):
        return []
    return [f"{name} is no known unit of length; mm is taken"]


def compare_thickness(grid: Grid, name: str, thickness_mm: Sequence[float]) -> list[str]:
    """Return a warning if voxels are thicker or thinner than they lie apart: a gap or overlap."""
    for axis, spacing, thickness in zip("IJK", grid.spacing_mm, thickness_mm, strict=True):
        if np.isfinite(thickness) and abs(thickness - spacing) > 0.01 * spacing:
            return [
                f"voxels are {thickness:.4g} mm thick along {axis} by {name}, but lie "
                f"{spacing:.4g} mm apart"
            ]
    return []


def _times(spacing: Iterable[float]) -> str:
    return " x ".join(f"{length:.4g}" for length in spacing)
