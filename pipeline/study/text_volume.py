"""Read NRRD and MetaImage: their headers by `nrrd` and `meta`, their voxels by `stored`.

No other program reads along, so that what was checked is what is read. LPS becomes RAS+ here, once.
"""

from functools import partial
from pathlib import Path

import numpy as np

from pipeline.study.checks import check_affine, check_num_voxels
from pipeline.study.header import header_from_grid
from pipeline.study.itk import LPS_TO_RAS
from pipeline.study.meta import read_meta
from pipeline.study.nrrd import read_nrrd
from pipeline.study.study import ImageFile, StudyConfig
from pipeline.study.text_header import read_text_header
from pipeline.volume import Grid


def open_text_volume(path: Path, config: StudyConfig) -> ImageFile:
    """Read and check the header of an NRRD or MetaImage file; no voxels are read.

    Raises:
        StudyError: If the file is of another kind, torn, or describes no volume in space.
    """
    text = read_text_header(path)
    # What is not finite is found by the checks.
    with np.errstate(all="ignore"):
        volume = (read_nrrd if text.is_nrrd else read_meta)(text)
    check_num_voxels(path, volume.shape_IJKN, config)
    volume.stored.check(volume.num_bytes)
    # Adding zero turns -0.0 into 0.0, so that equal affines have equal bits.
    with np.errstate(all="ignore"):
        affine = np.asarray(LPS_TO_RAS * volume.affine_lps + 0.0, dtype=np.float64)
    warnings = check_affine(path, affine)
    header = header_from_grid(Grid(volume.shape_IJKN[:3], affine))
    return ImageFile(
        path=path,
        shape_IJKN=volume.shape_IJKN,
        affine=header.get_sform(),
        header=header,
        warnings=(*volume.warnings, *warnings),
        load=partial(volume.stored.voxels, volume.shape_IJKN, volume.dtype),
    )
