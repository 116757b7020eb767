"""What the header of a MetaImage says of its voxels: as ITK understands it, or refused by name.

Source: itk.org/Wiki/ITK/MetaIO/Documentation.
"""

import numpy as np

from pipeline.errors import StudyError
from pipeline.study.checks import (
    NO_SPACING,
    check_stored_bytes,
    check_unit,
    compare_spacing,
    compare_thickness,
    volume_shape,
)
from pipeline.study.stored import Stored, bytes_named
from pipeline.study.study import ORIENTATION_UNKNOWN
from pipeline.study.text_header import TextHeader, TextVolume
from pipeline.volume import Affine, Grid

_TYPES = {
    "MET_CHAR": "i1",
    "MET_ASCII_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_MATRIX = ("TransformMatrix", "Rotation", "Orientation")
_OFFSET = ("Offset", "Position", "Origin")
_BYTE_ORDER = ("ElementByteOrderMSB", "BinaryDataByteOrderMSB")
_WORDS = {
    **dict.fromkeys(("true", "t", "1"), True),
    **dict.fromkeys(("false", "f", "0"), False),
}
_MOST_AXES = 10


def read_meta(header: TextHeader) -> TextVolume:
    """Return what the header of a MetaImage file describes.

    Raises:
        StudyError: If it does not hold together, or is stored in a way that is not read.
    """
    if header.fields.get("ObjectType", "Image") != "Image":
        raise header.wrong("ObjectType", "is not Image")
    (num_axes,) = header.whole("NDims", 1)
    if not 1 <= num_axes <= _MOST_AXES:
        raise header.wrong("NDims", f"is {num_axes}")
    shape_IJKN = volume_shape(header.path, header.whole("DimSize", num_axes))
    name = header.needed("ElementType")
    if header.whole("ElementNumberOfChannels", 1, 1) != (1,) or name.endswith("_ARRAY"):
        raise StudyError(
            header.path.name,
            "voxels are not plain numbers (several to a voxel)",
            "Convert the file to one intensity per voxel, one file per channel.",
        )
    if name not in _TYPES:
        raise header.wrong("ElementType", "is none of plain numbers")
    is_big = _flag(header, _one_of(header, _BYTE_ORDER), default=False)
    dtype = np.dtype(_TYPES[name]).newbyteorder(">" if is_big else "<")
    affine_lps, warnings = _place(header, num_axes, shape_IJKN[:3])
    num_bytes = int(np.prod(shape_IJKN, dtype=object)) * dtype.itemsize
    return TextVolume(shape_IJKN, dtype, affine_lps, tuple(warnings), _stored(header, num_bytes))


def _one_of(header: TextHeader, names: tuple[str, ...]) -> str:
    """Return which of the names of one field the file has; the first of them if none.

    Raises:
        StudyError: If it has two that say something else.
    """
    given = [name for name in names if name in header.fields]
    if len({tuple(header.fields[name].split()) for name in given}) > 1:
        raise header.wrong(" and ".join(given), "mean the same but differ")
    return given[0] if given else names[0]


def _flag(header: TextHeader, name: str, *, default: bool) -> bool:
    word = header.fields.get(name, str(default)).lower()
    if word not in _WORDS:
        raise header.wrong(name, "is neither True nor False")
    return _WORDS[word]


def _stored(header: TextHeader, num_bytes: int) -> Stored:
    if not _flag(header, "BinaryData", default=True):
        raise StudyError(
            header.path.name, "voxels are stored as text", "Convert the file to .nii.gz."
        )
    deflated = _flag(header, "CompressedData", default=False)
    (start,) = header.whole("HeaderSize", 1, 0)
    if start < (0 if deflated else -1):
        raise header.wrong("HeaderSize", "is negative")
    with bytes_named(header.path.name):
        size = header.data_path.stat().st_size
    if start == -1:
        # The voxels are the last that the file has.
        start = max(size - num_bytes, 0)
    start = start or header.offset
    if deflated and "CompressedDataSize" in header.fields:
        (declared,) = header.whole("CompressedDataSize", 1)
        check_stored_bytes(header.path, declared, size - start, compressed=False)
    return Stored(header.path.name, header.data_path, start, 0, deflated, exact=True)


def _place(
    header: TextHeader, num_axes: int, shape_IJK: tuple[int, int, int]
) -> tuple[Affine, list[str]]:
    """Return the affine in LPS+ mm, and what is odd about how the header gives it."""
    matrix_name = _one_of(header, _MATRIX)
    given = header.real(matrix_name, num_axes * num_axes)
    matrix = np.eye(num_axes) if given is None else np.reshape(given, (num_axes, num_axes))
    size = header.real("ElementSize", num_axes)
    spacing = header.real("ElementSpacing", num_axes) or size
    origin = header.real(_one_of(header, _OFFSET), num_axes)
    affine_lps = np.eye(4)
    affine_lps[:3, :3] = matrix[:3, :3].T * np.array(spacing or (1.0,) * 3)[:3]
    affine_lps[:3, 3] = (origin or (0.0,) * 3)[:3]
    warnings = [] if given is not None else [ORIENTATION_UNKNOWN]
    warnings += [] if spacing is not None else [NO_SPACING]
    units = (header.fields.get("DistanceUnits", ""),)
    warnings += check_unit(header.path, "DistanceUnits of the header", units)
    grid = Grid(shape_IJK, affine_lps)
    if spacing is not None:
        stated = {"ElementSpacing": [abs(length) for length in spacing[:3]]}
        used = f"ElementSpacing and {matrix_name}"
        warnings += compare_spacing(grid, used, stated)
    if size is not None:
        warnings += compare_thickness(grid, "ElementSize", size[:3])
    warnings += _intensities(header)
    return affine_lps, warnings


def _intensities(header: TextHeader) -> list[str]:
    """Tell of a scale of the intensities, which no reader built on ITK applies."""
    slope = header.real("ElementToIntensityFunctionSlope", 1) or (1.0,)
    offset = header.real("ElementToIntensityFunctionOffset", 1) or (0.0,)
    if (slope, offset) == ((1.0,), (0.0,)):
        return []
    return ["ElementToIntensityFunction scales intensities; it is not applied, as ITK does not"]
