"""The header of an ANALYZE 7.5 file, said as NIfTI; nothing in it tells left from right.

Its field for the orientation was used in contradicting ways, so it is not asked: such files have
spacing alone, like NIfTI files with both codes 0. Intensities are scaled as SPM meant it.

Source: nibabel.org, `nibabel.analyze` and `nibabel.spm2analyze`; field names are theirs.
"""

from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
from nibabel.spm2analyze import Spm2AnalyzeHeader

from pipeline.study.statements import check_unit


def as_nifti(
    path: Path, block: bytes, endianness: Literal["<", ">"]
) -> tuple[nib.Nifti1Header, list[str]]:
    """Return what an ANALYZE header says as a NIfTI header, and what is odd about it.

    Args:
        path: The file, for errors.
        block: Its first 348 bytes.
        endianness: Their byte order.

    Raises:
        StudyError: If it gives lengths in another unit than mm.
    """
    given = Spm2AnalyzeHeader(block, endianness=endianness, check=False)
    header = nib.Nifti1Header(endianness=endianness)
    header["magic"] = nib.Nifti1Header.pair_magic
    for name in ("dim", "datatype", "bitpix", "vox_offset"):
        header[name] = given[name]
    header["pixdim"][1:] = given["pixdim"][1:]
    with np.errstate(all="ignore"):
        slope, inter = given.get_slope_inter()
    header["scl_slope"] = np.nan if slope is None else slope
    header["scl_inter"] = 0 if inter is None else inter
    unit = given["vox_units"].item().decode("latin-1").strip("\0 ")
    return header, check_unit(path, "vox_units of the header", [unit])
