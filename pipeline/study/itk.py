"""Read NRRD and MetaImage through SimpleITK; LPS becomes RAS+ here, once.

SimpleITK gives origin and direction in LPS+ mm (x to the patient's left, y to the back), also for
NRRD files that are written in RAS.

Source: teem.sourceforge.net/nrrd/format.html; itk.org/Wiki/ITK/MetaIO/Documentation.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import StudyError
from pipeline.study.checks import (
    CONVERT_REMEDY,
    check_affine,
    check_num_voxels,
    check_stored_bytes,
    volume_shape,
)
from pipeline.study.header import header_from_grid
from pipeline.study.study import ORIENTATION_UNKNOWN, ImageFile, StudyConfig
from pipeline.volume import Affine, Grid

if TYPE_CHECKING:
    from SimpleITK import ImageFileReader

LPS_TO_RAS = np.array([[-1.0], [-1.0], [1.0], [1.0]])
"""Factors of the rows of an affine: x and y change sides, z does not."""

_MAX_HEADER_BYTES = 1 << 16
_NRRD_FIELD = re.compile(rb"^([^:#\r\n]+): ?([^\r\n]*)", re.MULTILINE)
_META_FIELD = re.compile(rb"^(\w+)\s*=\s*([^\r\n]*)", re.MULTILINE)
_META_END = re.compile(rb"^ElementDataFile\s*=[^\n]*\n?", re.MULTILINE)
_NRRD_END = re.compile(rb"\r?\n\r?\n")
_NRRD_ORIENTATION = ("space", "space dimension")
_META_ORIENTATION = ("transformmatrix", "orientation", "rotation")


@dataclass(frozen=True)
class _TextHeader:
    """The text at the start of a file: its fields by lower-case name, and its length in bytes."""

    is_nrrd: bool
    fields: dict[str, str]
    num_bytes: int

    @property
    def has_orientation(self) -> bool:
        names = _NRRD_ORIENTATION if self.is_nrrd else _META_ORIENTATION
        return any(name in self.fields for name in names)

    @property
    def is_compressed(self) -> bool:
        if self.is_nrrd:
            return self.fields.get("encoding", "raw").lower() != "raw"
        return self.fields.get("compresseddata", "false").lower() == "true"

    @property
    def data_file(self) -> str | None:
        """Name of the file with the voxels, None if it is this one."""
        name = self.fields.get("data file", self.fields.get("datafile"))
        if not self.is_nrrd:
            name = self.fields["elementdatafile"]
        return None if name is None or name.upper() == "LOCAL" else name


def open_itk(path: Path, config: StudyConfig) -> ImageFile:
    """Read and check the header of an NRRD or MetaImage file; no voxels are read.

    Raises:
        StudyError: If the file is of another kind, torn, or describes no volume in space.
    """
    text = _read_text_header(path)
    stored = _stored_bytes(path, text)
    reader = _make_reader(path, is_nrrd=text.is_nrrd)
    with _damage_named(path):
        reader.ReadImageInformation()
    shape_IJKN = volume_shape(path, [int(size) for size in reader.GetSize()])
    bytes_per_voxel = _bytes_per_voxel(path, reader)
    check_num_voxels(path, shape_IJKN, config)
    num_bytes = int(np.prod(shape_IJKN, dtype=object)) * bytes_per_voxel
    if stored is not None:
        # SimpleITK allocates before it looks, and prints when compressed data end too soon.
        declared = text.fields.get("compresseddatasize", "")
        if text.is_compressed and declared.isdecimal():
            check_stored_bytes(path, int(declared), stored, compressed=False)
        check_stored_bytes(path, num_bytes, stored, compressed=text.is_compressed)
    affine = _ras_affine(reader)
    warnings = check_affine(path, affine)
    if not text.has_orientation:
        warnings = (ORIENTATION_UNKNOWN, *warnings)
    return ImageFile(
        path=path,
        shape_IJKN=shape_IJKN,
        affine=affine,
        header=header_from_grid(Grid(shape_IJKN[:3], affine)),
        warnings=warnings,
        load=partial(_load, path, shape_IJKN, is_nrrd=text.is_nrrd),
    )


def _read_text_header(path: Path) -> _TextHeader:
    try:
        with path.open("rb") as file:
            start = file.read(_MAX_HEADER_BYTES)
    except OSError as error:
        found = f"cannot be opened ({error.strerror})"
        raise StudyError(path.name, found, "Check the file.") from error
    is_nrrd = start.startswith(b"NRRD")
    end = (_NRRD_END if is_nrrd else _META_END).search(start)
    if end is None and not (is_nrrd and len(start) < _MAX_HEADER_BYTES):
        raise StudyError(
            path.name,
            "content is neither NRRD nor MetaImage",
            "Check what the file is; convert it to .nii.gz.",
        )
    num_bytes = end.end() if end else len(start)
    found_fields = (_NRRD_FIELD if is_nrrd else _META_FIELD).findall(start[:num_bytes])
    fields = {
        name.decode("latin-1").lower(): value.decode("latin-1").strip()
        for name, value in found_fields
    }
    return _TextHeader(is_nrrd, fields, num_bytes)


def _stored_bytes(path: Path, text: _TextHeader) -> int | None:
    """Return how many bytes there are for the voxels; None if a list or pattern names their files.

    Raises:
        StudyError: If the file with the voxels is missing.
    """
    if text.data_file is None:
        return path.stat().st_size - text.num_bytes
    if "%" in text.data_file or text.data_file.upper().startswith("LIST"):
        return None
    data_path = path.parent / text.data_file
    if not data_path.is_file():
        raise StudyError(
            path.name,
            f"the file with its voxels, {data_path.name}, is missing",
            "Put it beside the header.",
        )
    return data_path.stat().st_size


def _make_reader(path: Path, *, is_nrrd: bool) -> "ImageFileReader":
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("NrrdImageIO" if is_nrrd else "MetaImageIO")
    reader.SetFileName(str(path))
    return reader


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Turn SimpleITK's errors into ours, and keep ITK's own warnings off the terminal."""
    import SimpleITK

    shown = SimpleITK.ProcessObject.GetGlobalWarningDisplay()
    SimpleITK.ProcessObject.GlobalWarningDisplayOff()
    try:
        yield
    except (RuntimeError, OverflowError, MemoryError) as error:
        raise StudyError(path.name, "header or voxels are damaged", CONVERT_REMEDY) from error
    finally:
        SimpleITK.ProcessObject.SetGlobalWarningDisplay(shown)


def _bytes_per_voxel(path: Path, reader: "ImageFileReader") -> int:
    import SimpleITK

    kind = SimpleITK.GetPixelIDValueAsString(reader.GetPixelID())
    plain = re.fullmatch(r"(\d+)-bit (signed integer|unsigned integer|float)", kind)
    if plain is None:
        raise StudyError(
            path.name,
            f"voxels are not plain numbers ({kind})",
            "Convert the file to one intensity per voxel, one file per channel.",
        )
    return int(plain[1]) // 8


def _ras_affine(reader: "ImageFileReader") -> Affine:
    num_axes = reader.GetDimension()
    direction = np.array(reader.GetDirection(), dtype=np.float64).reshape(num_axes, num_axes)
    affine_lps = np.eye(4)
    affine_lps[:3, :3] = direction[:3, :3] * np.array(reader.GetSpacing()[:3])
    affine_lps[:3, 3] = reader.GetOrigin()[:3]
    # Adding zero turns -0.0 into 0.0, so that equal affines have equal bits.
    return np.asarray(LPS_TO_RAS * affine_lps + 0.0, dtype=np.float64)


def _load(path: Path, shape_IJKN: tuple[int, int, int, int], *, is_nrrd: bool) -> npt.NDArray[Any]:
    import SimpleITK

    reader = _make_reader(path, is_nrrd=is_nrrd)
    with _damage_named(path):
        voxels = SimpleITK.GetArrayFromImage(reader.Execute())
    return np.asarray(voxels.T.reshape(shape_IJKN, order="F"))
