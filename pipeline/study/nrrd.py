"""What the header of an NRRD file says of its voxels: as ITK understands it, or refused by name.

Source: teem.sourceforge.net/nrrd/format.html.
"""

import re
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import StudyError
from pipeline.study.checks import (
    NO_SPACING,
    check_unit,
    compare_spacing,
    compare_thickness,
    volume_shape,
)
from pipeline.study.stored import Stored, bytes_named
from pipeline.study.study import ORIENTATION_UNKNOWN
from pipeline.study.text_header import TextHeader, TextVolume
from pipeline.system.text import open_ordinary
from pipeline.volume import Affine, Grid

_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": (
        *("longlong", "long long", "long long int", "signed long long"),
        *("signed long long int", "int64", "int64_t"),
    ),
    "u8": (*("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),),
    "f4": ("float",),
    "f8": ("double",),
}
_TYPE_BY_NAME = {name: kind for kind, names in _TYPES.items() for name in names}
_TO_LPS = {
    "left-posterior-superior": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
}
_SHORT = {"lps": "left-posterior-superior", "ras": "right-anterior-superior"}
_SHORT["las"] = "left-anterior-superior"
_NOT_OF_PATIENT = ("scanner-xyz", "3d-right-handed", "3d-left-handed")
_POINTS = ("domain", "space", "time", "none", "???")
_MOST_AXES = 16
_LINES_BYTES = 1 << 20
_VECTOR = re.compile(r"none|\([^()]*\)")
_QUOTED = re.compile(r'"([^"]*)"')
_SCALARS = ("spacings", "axis mins", "axis maxs", "units")


def read_nrrd(header: TextHeader) -> TextVolume:
    """Return what the header of an NRRD file describes.

    Raises:
        StudyError: If it does not hold together, or is stored in a way that is not read.
    """
    (num_axes,) = header.whole("dimension", 1)
    if not 1 <= num_axes <= _MOST_AXES:
        raise header.wrong("dimension", f"is {num_axes}")
    shape_IJKN = volume_shape(header.path, header.whole("sizes", num_axes))
    _check_kinds(header, num_axes)
    dtype = _dtype(header)
    affine_lps, warnings = _place(header, num_axes, shape_IJKN[:3])
    num_bytes = int(np.prod(shape_IJKN, dtype=object)) * dtype.itemsize
    return TextVolume(shape_IJKN, dtype, affine_lps, tuple(warnings), _stored(header, num_bytes))


def _check_kinds(header: TextHeader, num_axes: int) -> None:
    """Refuse axes that are no places, such as the three of a colour."""
    kinds = header.fields.get("kinds", "").lower().split()
    if not kinds:
        return
    if len(kinds) != num_axes:
        raise header.wrong("kinds", f"is not {num_axes} words")
    for axis, kind in enumerate(kinds):
        # Volumes one after the other are a list of images; elsewhere it is one of voxels.
        if kind not in _POINTS and not (kind == "list" and axis >= len("IJK")):
            raise StudyError(
                header.path.name,
                f"voxels are not plain numbers (by the kind of axis {axis})",
                "Convert the file to one intensity per voxel, one file per channel.",
            )


def _dtype(header: TextHeader) -> np.dtype[Any]:
    name = " ".join(header.needed("type").lower().split())
    if name not in _TYPE_BY_NAME:
        raise header.wrong("type", "is none of plain numbers")
    dtype = np.dtype(_TYPE_BY_NAME[name])
    order = header.fields.get("endian", "").lower()
    if dtype.itemsize > 1 and order not in ("little", "big"):
        raise header.wrong("endian", "is neither little nor big, or missing")
    return dtype.newbyteorder(">" if order == "big" else "<")


def _stored(header: TextHeader, num_bytes: int) -> Stored:
    encoding = header.needed("encoding").lower()
    (lines,) = header.whole("line skip", 1, 0)
    (skip,) = header.whole("byte skip", 1, 0)
    deflated = encoding in ("gzip", "gz")
    if not (deflated or encoding == "raw"):
        raise StudyError(
            header.path.name,
            "voxels are stored neither raw nor by gzip",
            "Convert the file to one of these encodings, or to .nii.gz.",
        )
    if lines < 0 or skip < (0 if deflated else -1):
        raise header.wrong("line skip or byte skip", "is negative")
    start = header.offset if lines == 0 else _after_lines(header, lines)
    if skip == -1:
        # The voxels are the last that the file has.
        with bytes_named(header.path.name):
            start, skip = max(header.data_path.stat().st_size - num_bytes, 0), 0
    return Stored(header.path.name, header.data_path, start, skip, deflated)


def _after_lines(header: TextHeader, lines: int) -> int:
    with bytes_named(header.path.name), open_ordinary(header.data_path) as file:
        file.seek(header.offset)
        start = file.read(_LINES_BYTES)
    ends = -1
    for _ in range(min(lines, len(start) + 1)):
        ends = start.find(b"\n", ends + 1)
        if ends < 0:
            raise header.wrong("line skip", "is more lines than a megabyte before the voxels has")
    return header.offset + ends + 1


def _place(
    header: TextHeader, num_axes: int, shape_IJK: tuple[int, int, int]
) -> tuple[Affine, list[str]]:
    """Return the affine in LPS+ mm, and what is odd about how the header gives it."""
    space = header.fields.get("space", "").lower()
    space = _SHORT.get(space.removesuffix("t"), space.removesuffix("-time"))
    num_dimensions = _space_dimension(header, space)
    with_directions = "space directions" in header.fields
    to_lps = np.array(_TO_LPS.get(space, (1, 1, 1)))
    affine_lps = np.eye(4)
    if with_directions:
        steps = _directions(header, num_axes, num_dimensions)
        affine_lps[:3, :3] = steps * to_lps[:, None]
    else:
        # As ITK has it: what has no direction runs along the axes of LPS.
        affine_lps[:3, :3] = np.diag(_spacings(header, num_axes))
    affine_lps[:3, 3] = _origin(header, num_axes, num_dimensions) * to_lps
    is_placed = with_directions and _is_of_patient(space, num_dimensions)
    warnings = [] if is_placed else [ORIENTATION_UNKNOWN]
    grid = Grid(shape_IJK, affine_lps)
    warnings += _compare(header, num_axes, grid, with_directions=with_directions)
    return affine_lps, warnings


def _is_of_patient(space: str, num_dimensions: int) -> bool:
    """Tell whether the axes of a space have names; ITK writes four dimensions without."""
    return space in _TO_LPS or (not space and num_dimensions == len("XYZT"))


def _space_dimension(header: TextHeader, space: str) -> int:
    """Return how many coordinates a point has, 0 if there is no space around the voxels."""
    if "space" in header.fields:
        if "space dimension" in header.fields:
            raise header.wrong("space", "is given twice, also by its dimension")
        if space not in _TO_LPS and space not in _NOT_OF_PATIENT:
            raise header.wrong("space", "is none that is known")
        is_short = header.fields["space"].lower() in ("last", "rast", "lpst")
        return 4 if is_short or header.fields["space"].lower().endswith("-time") else 3
    (num_dimensions,) = header.whole("space dimension", 1, 0)
    if num_dimensions not in (0, 3, 4):
        raise header.wrong("space dimension", f"is {num_dimensions}, not 3")
    return num_dimensions


def _vector(header: TextHeader, name: str, text: str, count: int) -> tuple[float, ...]:
    """Return a vector written as `(x,y,z)`; `none` is one of NaN."""
    if text == "none":
        return (float("nan"),) * count
    words = [word.strip(" \t") for word in text[1:-1].split(",")]
    return header.numbers(name, words, count)


def _vectors(header: TextHeader, name: str, count: int) -> list[str]:
    text = header.fields[name]
    vectors = _VECTOR.findall(text)
    if len(vectors) != count or _VECTOR.sub("", text).strip(" \t"):
        raise header.wrong(name, f"is not {count} vector(s)")
    return list(vectors)


def _directions(header: TextHeader, num_axes: int, num_dimensions: int) -> npt.NDArray[np.float64]:
    """Return the steps along I, J and K as columns; any axis behind them is not of space."""
    name = "space directions"
    if num_dimensions == 0:
        raise header.wrong(name, "has no space to be in")
    texts = _vectors(header, name, num_axes)
    steps = np.array([_vector(header, name, text, num_dimensions) for text in texts])
    if any(_is_given(header, field) for field in _SCALARS):
        raise header.wrong(name, "stands beside spacings, which may say something else")
    spatial, others = steps[:3], steps[3:]
    if np.isnan(spatial).any():
        raise header.wrong(name, "leaves out one of the first three axes, or holds NaN")
    if spatial[:, 3:].any() or np.nan_to_num(others[:, :3]).any():
        raise header.wrong(name, "mixes space and time")
    return spatial[:, :3].T


def _is_given(header: TextHeader, name: str) -> bool:
    """Tell whether a field of one value an axis says more than that there is none."""
    text = header.fields.get(name, "")
    if name == "units":
        return any(_QUOTED.findall(text))
    return any(word.lower() != "nan" for word in text.split()[:3])


def _spacings(header: TextHeader, num_axes: int) -> list[float]:
    spacings = header.real("spacings", num_axes)
    if spacings is not None and "space" in header.fields:
        raise header.wrong("spacings", "stands beside a space, where it has no direction")
    # As ITK has it: an axis without spacing has that of 1.
    return [1.0 if np.isnan(spacing) else spacing for spacing in (spacings or (np.nan,) * 3)[:3]]


def _origin(header: TextHeader, num_axes: int, num_dimensions: int) -> list[float]:
    if num_dimensions and "space origin" in header.fields:
        (text,) = _vectors(header, "space origin", 1)
        origin = _vector(header, "space origin", text, num_dimensions)
        return [0.0 if text == "none" or np.isnan(origin).all() else x for x in origin[:3]]
    lowest = header.real("axis mins", num_axes)
    if num_dimensions or lowest is None or np.isnan(lowest[:3]).any():
        return [0.0] * 3
    if not _is_given(header, "spacings"):
        raise header.wrong("axis mins", "is given without spacings")
    centers = header.fields.get("centers", header.fields.get("centerings", "")).lower().split()
    centers = centers if len(centers) == num_axes else ["cell"] * num_axes
    halves = [0.0 if center == "node" else 0.5 for center in centers]
    spacings = np.abs(_spacings(header, num_axes))
    return [low + half * size for low, half, size in zip(lowest, halves, spacings, strict=False)]


def _compare(header: TextHeader, num_axes: int, grid: Grid, *, with_directions: bool) -> list[str]:
    """Compare all that the header says of spacing and unit with what is used."""
    warnings = []
    if not with_directions and not _is_given(header, "spacings"):
        warnings.append(NO_SPACING)
    for name in ("space units", "units"):
        units = _QUOTED.findall(header.fields.get(name, ""))
        warnings += check_unit(header.path, f"{name} of the header", units[:3])
    low, high = header.real("axis mins", num_axes), header.real("axis maxs", num_axes)
    if low is not None and high is not None and not with_directions:
        ends = zip(low, high, grid.shape, strict=False)
        stated = [(b - a) / size for a, b, size in ends]
        if np.isfinite(stated).all():
            warnings += compare_spacing(grid, "spacings", {"axis mins and maxs": stated})
    thicknesses = header.real("thicknesses", num_axes)
    if thicknesses is not None:
        warnings += compare_thickness(grid, "thicknesses", thicknesses[:3])
    return warnings
