"""Read FreeSurfer's MGH, plain (`.mgh`) or gzipped (`.mgz`); it is RAS+ by itself.

Source: surfer.nmr.mgh.harvard.edu/fswiki/FsTutorial/MghFormat; field names are nibabel's.
"""

from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np

from pipeline.errors import StudyError
from pipeline.study.checks import (
    check_affine,
    check_num_voxels,
    compare_spacing,
    other_content,
    volume_shape,
)
from pipeline.study.header import header_from_grid
from pipeline.study.stored import Stored, read_start
from pipeline.study.study import ORIENTATION_UNKNOWN, ImageFile, StudyConfig
from pipeline.volume import Grid

_HEADER_BYTES = 284
"""Where the voxels begin."""

_FIELD_BYTES = 90
"""Those that have fields; nibabel's header has fields from behind the voxels, too."""

_TYPES = {0: ">u1", 1: ">i4", 3: ">f4", 4: ">i2", 10: ">u2"}


def open_mgh(path: Path, config: StudyConfig) -> ImageFile:
    """Read and check the header of an MGH file; no voxels are read.

    Raises:
        StudyError: If the file is of another kind, torn, or describes no volume in space.
    """
    block, deflated = read_start(path, _HEADER_BYTES)
    if len(block) < _HEADER_BYTES or int.from_bytes(block[:4], "big") != 1:
        raise other_content(path, block, "not MGH")
    fields = nib.freesurfer.MGHImage.header_class(block[:_FIELD_BYTES], check=False)
    shape_IJKN = volume_shape(path, [int(length) for length in fields["dims"]])
    code = int(fields["type"])
    if code not in _TYPES:
        raise StudyError(
            path.name,
            f"voxels are not plain numbers (MGH type {code})",
            "Convert the file to one intensity per voxel.",
        )
    dtype = np.dtype(_TYPES[code])
    check_num_voxels(path, shape_IJKN, config)
    stored = Stored(path.name, path, skip=_HEADER_BYTES, deflated=deflated)
    stored.check(int(np.prod(shape_IJKN, dtype=object)) * dtype.itemsize)
    with np.errstate(all="ignore"):
        affine = np.array(fields.get_affine(), dtype=np.float64)
        warnings = check_affine(path, affine)
        # Without the flag at 28 nibabel leaves what follows it aside, as FreeSurfer does.
        stated = {"delta": np.frombuffer(block[30:42], ">f4").tolist()}
        warnings += tuple(compare_spacing(Grid(shape_IJKN[:3], affine), "the affine", stated))
    is_placed = any(block[28:30])
    header = header_from_grid(Grid(shape_IJKN[:3], affine))
    return ImageFile(
        path=path,
        shape_IJKN=shape_IJKN,
        affine=header.get_sform(),
        header=header,
        warnings=warnings if is_placed else (ORIENTATION_UNKNOWN, *warnings),
        load=partial(stored.voxels, shape_IJKN, dtype),
    )
