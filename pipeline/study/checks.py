"""The rules that every input must pass; what headers say of spacing and units.

Axes: I, J, K = voxel axes in the order of the file; N = volumes in one file.

Programs differ in the place that they look at, so a file whose statements differ is measured in two
ways. What is used is stated; what disagrees with it is a warning, or ends the reading where nothing
says which one is meant.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import StudyError
from pipeline.study.header import PLACE_TOLERANCE_MM, qform_error_mm
from pipeline.study.study import StudyConfig
from pipeline.volume import Affine, Grid

SINGULAR_TOLERANCE = 1e-6
"""Smallest volume of the voxel relative to that of a box with the same edges."""

MAX_EXTENT_MM = 5000.0
"""Longer than any scanner's table; a whole body is about 2000 mm."""

MIN_EXTENT_MM = 1.0
"""Smaller than what clinical scanners resolve."""

SHEAR_TOLERANCE = 1e-3
"""Largest cosine of the angle between two voxel axes that still counts as a right angle."""

MAX_COORDINATE_MM = 1e6
"""Larger entries of an affine, in mm, are damage: no scanner is a kilometre wide."""

DEFLATE_MAX_RATIO = 1032
"""No deflate stream (gzip, zlib) grows by more than this. Source: zlib.net/zlib_tech.html."""

LABEL_MAX_VALUE = 65535
LABEL_MAX_DISTINCT = 256
LABEL_MIN_EQUAL_PAIRS = 0.75
"""Share of equal neighbours above which whole numbers are taken for labels; see below."""

CONVERT_REMEDY = "Make the file anew from its source."
COPY_REMEDY = "Copy or convert the file again."

POINTERS = (b"version https://git-lfs", b"version https://hawser", b"/annex/", b"../", b".git/")
"""What stands in place of a file that was not fetched: Git LFS, git-annex, links as text."""


def other_content(path: Path, start: bytes, wanted: str) -> StudyError:
    """Return the error of a file whose content is not what its name says.

    Args:
        path: The file.
        start: Its first bytes.
        wanted: What its content is not, in words.
    """
    if start.startswith(POINTERS):
        found = "the file was not fetched: a pointer stands in its place"
        return StudyError(path.name, found, "Fetch it (git lfs pull, git annex get).")
    remedy = "Check what the file is; convert it to .nii.gz."
    return StudyError(path.name, f"content is {wanted}", remedy)


def volume_shape(path: Path, sizes: Sequence[int]) -> tuple[int, int, int, int]:
    """Return `sizes` as `(I, J, K, N)`; trailing axes of length 1 are dropped.

    Raises:
        StudyError: If an axis has no voxels, or there are fewer than three or more than four axes.
    """
    if any(size < 1 for size in sizes):
        raise StudyError(path.name, f"header gives the size {tuple(sizes)}", CONVERT_REMEDY)
    if len(sizes) < 3:
        raise StudyError(
            path.name,
            f"image has {len(sizes)} axes {tuple(sizes)}, not 3",
            "Stack the slices into one volume; a single slice needs the size (I, J, 1).",
        )
    if any(size > 1 for size in sizes[4:]):
        raise StudyError(
            path.name,
            f"image has {len(sizes)} axes {tuple(sizes)}, not 3",
            "Write one file per volume.",
        )
    i, j, k, n = (*sizes, 1)[:4]
    return i, j, k, n


def check_num_voxels(path: Path, shape_IJKN: Sequence[int], config: StudyConfig) -> None:
    """Refuse a file with more voxels than the configuration allows.

    Raises:
        StudyError: If there are more than `config.max_voxels`.
    """
    num_voxels = int(np.prod([int(n) for n in shape_IJKN], dtype=object))
    if num_voxels > config.max_voxels:
        raise StudyError(
            path.name,
            f"header promises {num_voxels} voxels {tuple(shape_IJKN)}, "
            f"more than study.max_voxels={config.max_voxels}",
            "Check the header; raise study.max_voxels if the size is right.",
        )


def check_stored_bytes(path: Path, num_bytes: int, stored: int, *, compressed: bool) -> None:
    """Refuse a file that is too short for the voxels its header promises, before allocating them.

    Args:
        path: The file, for the error's text.
        num_bytes: Bytes that the voxels need in memory.
        stored: Bytes that the file has for them.
        compressed: Whether these are deflated.

    Raises:
        StudyError: If the voxels cannot all be there.
    """
    if stored * (DEFLATE_MAX_RATIO if compressed else 1) < num_bytes:
        kind = "compressed bytes" if compressed else "bytes"
        raise StudyError(
            path.name,
            f"header promises {num_bytes} bytes of voxels but the file has {max(stored, 0)} {kind} "
            "for them: it is truncated, or the header is wrong",
            COPY_REMEDY,
        )


def check_affine(path: Path, affine: Affine) -> tuple[str, ...]:
    """Refuse an affine that places no voxels in space; return warnings about an odd one.

    Raises:
        StudyError: If the affine is not finite, or singular (an axis of length 0 included).
    """
    remedy = "Give the header a valid orientation, for example by converting from DICOM again."
    if not np.isfinite(affine).all():
        raise StudyError(path.name, "affine holds values that are not finite", remedy)
    largest = float(np.abs(affine).max())
    if largest > MAX_COORDINATE_MM:
        raise StudyError(path.name, f"affine holds {largest:g} mm", remedy)
    axes = affine[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    if not affine[:3].any():
        raise StudyError(path.name, "affine is all zero", remedy)
    if (lengths == 0).any():
        raise StudyError(path.name, f"affine has spacing {lengths.tolist()} mm", remedy)
    directions = axes / lengths
    if abs(np.linalg.det(directions)) < SINGULAR_TOLERANCE:
        raise StudyError(path.name, "affine is singular (two voxel axes coincide)", remedy)
    cosine = np.abs(directions.T @ directions - np.eye(3)).max()
    if cosine > SHEAR_TOLERANCE:
        angle = np.degrees(np.arccos(min(cosine, 1.0)))
        return (f"voxel axes are sheared: the smallest angle between two is {angle:.1f} degrees",)
    return ()


def check_extent(path: Path, grid: Grid) -> None:
    """Refuse a volume that is no part of a patient: its spacing must be wrong.

    Raises:
        StudyError: If it is longer than `MAX_EXTENT_MM`, or shorter than `MIN_EXTENT_MM` along
            every axis.
    """
    extent_mm = [n * spacing for n, spacing in zip(grid.shape, grid.spacing_mm, strict=True)]
    if max(extent_mm) > MAX_EXTENT_MM or max(extent_mm) < MIN_EXTENT_MM:
        size = " x ".join(f"{length:.4g}" for length in extent_mm)
        remedy = "Correct the spacing, or the unit of length, in the header."
        raise StudyError(path.name, f"the volume measures {size} mm", remedy)


def check_intensities(
    path: Path, voxels_IJK: npt.NDArray[np.float32], config: StudyConfig
) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
    """Refuse or repair voxels that are no image.

    Returns:
        The volume, a new one if voxels were repaired, and the warnings.

    Raises:
        StudyError: If voxels are not finite (and are not to be repaired), all equal, or look like
            a label map (and these are not allowed).
    """
    lowest, highest = float(voxels_IJK.min()), float(voxels_IJK.max())
    warnings: tuple[str, ...] = ()
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        finite_IJK = np.isfinite(voxels_IJK)
        count = int(finite_IJK.size - np.count_nonzero(finite_IJK))
        found = f"{count} of {finite_IJK.size} voxels are NaN, infinite or beyond float32"
        if count == finite_IJK.size:
            raise StudyError(path.name, found, "Give another file: no voxel of this one is usable.")
        if config.non_finite == "refuse":
            remedy = "Repair the file, or set study.non_finite=repair: the smallest value instead."
            raise StudyError(path.name, found, remedy)
        lowest = float(voxels_IJK.min(where=finite_IJK, initial=np.inf))
        highest = float(voxels_IJK.max(where=finite_IJK, initial=-np.inf))
        voxels_IJK = np.where(finite_IJK, voxels_IJK, np.float32(lowest))
        warnings = (f"{found}; they were set to {lowest:g}",)
    if lowest == highest:
        raise StudyError(path.name, f"all voxels have the value {lowest:g}", "Give an image.")
    if not config.allow_label_maps:
        _refuse_label_map(path, voxels_IJK, lowest, highest)
    return voxels_IJK, warnings


def _refuse_label_map(
    path: Path, voxels_IJK: npt.NDArray[np.float32], lowest: float, highest: float
) -> None:
    """Raise StudyError if the volume looks like labels rather than intensities.

    Labels are whole numbers, few, and constant over regions; noise makes neighbours differ in any
    real image. Measured on 264 images and 271 label maps (CT, MR, ultrasound; 8-bit ones included),
    as the share of equal pairs among neighbours that both differ from the commonest value: images
    0.00 to 0.56 (all but two, one of them smoothed, below 0.31), label maps 0.92 to 1.00, or no
    such pair at all where labels are single points.
    """
    if lowest < 0 or highest > LABEL_MAX_VALUE:
        return
    labels_IJK = voxels_IJK.astype(np.uint16)
    if (labels_IJK != voxels_IJK).any():
        return
    counts = np.zeros(LABEL_MAX_VALUE + 1, dtype=np.int64)
    for labels_IJ in np.moveaxis(labels_IJK, 2, 0):
        counts += np.bincount(labels_IJ.ravel(order="K"), minlength=counts.size)
    distinct = int(np.count_nonzero(counts))
    if distinct > LABEL_MAX_DISTINCT:
        return
    equal, pairs = _count_equal_pairs(labels_IJK, background=int(counts.argmax()))
    if equal >= LABEL_MIN_EQUAL_PAIRS * pairs:
        raise StudyError(
            path.name,
            f"looks like a label map: {distinct} whole-number values, {equal} of {pairs} pairs of "
            "neighbouring foreground voxels are equal",
            "Give the image it was drawn on; for an image, set study.allow_label_maps=true.",
        )


def _count_equal_pairs(labels_IJK: npt.NDArray[Any], background: int) -> tuple[int, int]:
    foreground_IJK = labels_IJK != background
    equal = pairs = 0
    for axis in range(3):
        labels = np.moveaxis(labels_IJK, axis, 0)
        foreground = np.moveaxis(foreground_IJK, axis, 0)
        both = foreground[:-1] & foreground[1:]
        pairs += int(np.count_nonzero(both))
        equal += int(np.count_nonzero(both & (labels[:-1] == labels[1:])))
    return equal, pairs


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
