"""Read NRRD and MetaImage through SimpleITK; LPS becomes RAS+ here, once.

SimpleITK gives origin and direction in LPS+ mm (x to the patient's left, y to the back), also for
NRRD files that are written in RAS.

Source: teem.sourceforge.net/nrrd/format.html; itk.org/Wiki/ITK/MetaIO/Documentation.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
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
    volume_shape,
)
from pipeline.study.header import header_from_grid
from pipeline.study.place import ORIENTATION_UNKNOWN
from pipeline.study.study import ImageFile, StudyConfig
from pipeline.study.text_header import (
    TextHeader,
    check_compressed,
    check_length,
    read_text_header,
)
from pipeline.volume import Affine, Grid

if TYPE_CHECKING:
    from SimpleITK import ImageFileReader

LPS_TO_RAS = np.array([[-1.0], [-1.0], [1.0], [1.0]])
"""Factors of the rows of an affine: x and y change sides, z does not."""


def open_itk(path: Path, config: StudyConfig) -> ImageFile:
    """Read and check the header of an NRRD or MetaImage file; no voxels are read.

    Raises:
        StudyError: If the file is of another kind, torn, or describes no volume in space.
    """
    text = read_text_header(path)
    reader = _make_reader(path, is_nrrd=text.is_nrrd)
    with damage_named(path):
        reader.ReadImageInformation()
    shape_IJKN = volume_shape(path, [int(size) for size in reader.GetSize()])
    bytes_per_voxel = _bytes_per_voxel(path, reader)
    check_num_voxels(path, shape_IJKN, config)
    num_bytes = int(np.prod(shape_IJKN, dtype=object)) * bytes_per_voxel
    check_length(path, text, num_bytes)
    affine = _ras_affine(reader)
    warnings = check_affine(path, affine)
    if not text.has_orientation:
        warnings = (ORIENTATION_UNKNOWN, *warnings)
    header = header_from_grid(Grid(shape_IJKN[:3], affine))
    return ImageFile(
        path=path,
        shape_IJKN=shape_IJKN,
        affine=header.get_sform(),
        header=header,
        warnings=warnings,
        load=partial(_load, path, text, shape_IJKN, num_bytes),
    )


def _make_reader(path: Path, *, is_nrrd: bool) -> "ImageFileReader":
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("NrrdImageIO" if is_nrrd else "MetaImageIO")
    reader.SetFileName(str(path))
    return reader


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
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


def _load(
    path: Path, text: TextHeader, shape_IJKN: tuple[int, int, int, int], num_bytes: int
) -> npt.NDArray[Any]:
    import SimpleITK

    check_compressed(path, text, num_bytes)
    reader = _make_reader(path, is_nrrd=text.is_nrrd)
    with damage_named(path):
        voxels = SimpleITK.GetArrayFromImage(reader.Execute())
    return np.asarray(voxels.T.reshape(shape_IJKN, order="F"))
