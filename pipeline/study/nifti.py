"""Read NIfTI-1, NIfTI-2 and ANALYZE 7.5, plain or gzipped, of either byte order.

Its field for the orientation was used in contradicting ways, so it is not asked: such files have
spacing alone, like NIfTI files with both codes 0. Intensities are scaled as SPM meant it.

Source: nibabel.org, `nibabel.analyze` and `nibabel.spm2analyze`; field names are theirs.

So are pairs of `.hdr` and `.img`, also those of ANALYZE 7.5.

The header block is parsed by nibabel with its checks off, because these repair silently and log;
what must hold is checked here and said to the user. Extensions are never read.

Source: NIfTI-1 and NIfTI-2 headers, nifti.nimh.nih.gov; field names are the standard's.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.spatialimages import HeaderDataError
from nibabel.spm2analyze import Spm2AnalyzeHeader

from pipeline.errors import StudyError
from pipeline.study.checks import (
    CONVERT_REMEDY,
    check_affine,
    check_num_voxels,
    check_unit,
    compare_spacing,
    other_content,
    volume_shape,
)
from pipeline.study.header import PLACE_TOLERANCE_MM, SPATIAL_UNITS_MASK, geometry_header
from pipeline.study.stored import Stored, read_start
from pipeline.study.study import ORIENTATION_UNKNOWN, GeometryHeader, ImageFile, StudyConfig
from pipeline.volume import Affine, Grid


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


_BYTE_ORDERS: tuple[tuple[Literal["<", ">"], Literal["little", "big"]], ...] = (
    ("<", "little"),
    (">", "big"),
)
_UNITS = {0: ("mm", 1.0), 1: ("metre", 1000.0), 2: ("mm", 1.0), 3: ("micron", 0.001)}
_OF_PATIENT = (1, 2)
"""Codes of a sform that places voxels in the patient; others are templates of any size."""

_LOST_SCALE = 0.05
"""A pixdim that differs from 1 mm by more than this share, beside a sform of 1 mm."""


@dataclass(frozen=True)
class _Layout:
    """Where and how a file holds its voxels."""

    shape_IJKN: tuple[int, int, int, int]
    dtype: np.dtype[Any]
    offset: int
    slope: np.float32
    inter: np.float32
    in_pair: bool


def open_nifti(path: Path, config: StudyConfig) -> ImageFile:
    """Read and check the header of a NIfTI file; nothing of the voxels' size is allocated.

    Raises:
        StudyError: If the file is not NIfTI, torn, or describes no volume in space.
    """
    header, compressed, odd = _read_header(path)
    layout = _read_layout(path, header)
    check_num_voxels(path, layout.shape_IJKN, config)
    if layout.in_pair:
        data_path = paired_file(path)
        _, compressed = read_start(data_path, 2)
    else:
        data_path = path
    stored = Stored(path.name, data_path, skip=layout.offset, deflated=compressed)
    stored.check(int(np.prod(layout.shape_IJKN, dtype=object)) * layout.dtype.itemsize)
    with np.errstate(all="ignore"):
        affine, warnings = _read_affine(path, header, layout.shape_IJKN)
    return ImageFile(
        path=path,
        shape_IJKN=layout.shape_IJKN,
        affine=affine,
        header=geometry_header(header),
        warnings=(*odd, *warnings),
        load=partial(_load, stored, layout),
    )


def voxels_of(path: Path) -> Path:
    """Return the file with the voxels of a NIfTI or ANALYZE file.

    Raises:
        StudyError: If it is neither, or there is none.
    """
    return paired_file(path) if _is_paired(_read_header(path)[0]) else path


def paired_file(path: Path) -> Path:
    """Return the `.img` beside a `.hdr`.

    Raises:
        StudyError: If there is none.
    """
    stem = path.name[: -len(".hdr")]
    beside = [path.with_name(f"{stem}{suffix}") for suffix in (".img", ".IMG")]
    found = next((file for file in beside if file.is_file()), None)
    if found is None:
        missing = f"the file with its voxels, {beside[0].name}, is missing, or no ordinary file"
        raise StudyError(path.name, missing, "Put it beside the header.")
    return found


def _read_header(path: Path) -> tuple[GeometryHeader, bool, list[str]]:
    """Return the header, whether its file is gzipped, and what is odd about it."""
    block, compressed = read_start(path, nib.Nifti2Header.sizeof_hdr)
    may_be_pair = path.name.lower().endswith(".hdr")
    for kind in (nib.Nifti1Header, nib.Nifti2Header):
        for endianness, order in _BYTE_ORDERS:
            size = int.from_bytes(block[:4], order)
            if size != kind.sizeof_hdr or len(block) < size:
                continue
            header = kind(block[:size], endianness=endianness, check=False)
            magic = header["magic"].item()
            if magic == kind.single_magic.rstrip(b"\0"):
                return header, compressed, []
            if may_be_pair and magic == kind.pair_magic.rstrip(b"\0"):
                return header, compressed, []
            if may_be_pair and kind is nib.Nifti1Header and not magic.startswith((b"n+", b"ni")):
                header, odd = as_nifti(path, block[:size], endianness)
                return header, compressed, odd
    wanted = "not NIfTI (no NIfTI-1 or NIfTI-2 header at its start)"
    raise other_content(path, block, wanted)


def _is_paired(header: GeometryHeader) -> bool:
    return bool(header["magic"].item() != type(header).single_magic.rstrip(b"\0"))


def _read_layout(path: Path, header: GeometryHeader) -> _Layout:
    num_axes = int(header["dim"][0])
    if not 1 <= num_axes <= 7:
        raise StudyError(path.name, f"header gives {num_axes} axes", CONVERT_REMEDY)
    shape_IJKN = volume_shape(path, [int(size) for size in header["dim"][1 : num_axes + 1]])
    try:
        dtype = np.dtype(header.get_data_dtype())
        slope, inter = header.get_slope_inter()
    except (HeaderDataError, KeyError) as error:
        raise StudyError(path.name, f"header is damaged ({error})", CONVERT_REMEDY) from error
    if dtype.kind not in "iuf":
        code = int(header["datatype"])
        raise StudyError(
            path.name,
            f"voxels are not plain numbers (NIfTI datatype {code}: colour, complex or binary)",
            "Convert the file to one intensity per voxel.",
        )
    offset = float(header["vox_offset"])
    if not 0 <= offset < 2**62:
        raise StudyError(path.name, f"header gives the data offset {offset:g}", CONVERT_REMEDY)
    in_pair = _is_paired(header)
    # Offsets inside the header block mean "right after it" to the reference library too.
    offset = max(int(offset), 0 if in_pair else header.single_vox_offset)
    with np.errstate(all="ignore"):
        scaling = np.float32(1 if slope is None else slope), np.float32(inter or 0)
    return _Layout(shape_IJKN, dtype, int(offset), *scaling, in_pair)


def _read_affine(
    path: Path, header: GeometryHeader, shape_IJKN: tuple[int, int, int, int]
) -> tuple[Affine, tuple[str, ...]]:
    """Return the affine in mm by sform, else qform, else spacing alone; and the warnings."""
    warnings: list[str] = []
    has_sform, has_qform = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    qform = _read_qform(header) if has_qform else None
    if has_sform:
        affine = np.array(header.get_sform(), dtype=np.float64)
    elif has_qform:
        if qform is None:
            raise StudyError(path.name, "qform is not valid", CONVERT_REMEDY)
        affine = qform
    else:
        affine = np.array(_standard(header).get_base_affine(), dtype=np.float64)
        warnings.append(ORIENTATION_UNKNOWN)
    code = int(header["xyzt_units"]) & SPATIAL_UNITS_MASK
    unit, to_mm = _UNITS.get(code, ("mm", 1.0))
    affine[:3] *= to_mm
    if code not in _UNITS:
        warnings.append(f"header gives the unit of length {code}, which is none; mm is taken")
    if unit != "mm":
        warnings.append(f"header is in {unit}; the affine was multiplied by {to_mm:g} to get mm")
    warnings += check_affine(path, affine)
    if has_sform:
        grid = Grid(shape_IJKN[:3], affine)
        if has_qform:
            warnings += _compare(grid, qform, to_mm)
        spacing_mm = np.abs(np.array(header["pixdim"][1:4], dtype=np.float64)) * to_mm
        _check_scale(path, header, spacing_mm)
        warnings += compare_spacing(grid, "sform", {"pixdim": spacing_mm.tolist()})
    return affine, tuple(warnings)


def _check_scale(path: Path, header: GeometryHeader, spacing_mm: npt.NDArray[np.float64]) -> None:
    """Refuse a sform that lost its scale: voxels of 1 mm, where pixdim has their true spacing."""
    lengths = np.linalg.norm(header.get_sform()[:3, :3], axis=0)
    is_of_one = np.allclose(lengths, 1, rtol=0, atol=1e-4)
    is_spacing = (np.isfinite(spacing_mm) & (spacing_mm > 0)).all()
    is_other = (np.abs(spacing_mm - 1) > _LOST_SCALE).any()
    if is_of_one and is_spacing and is_other and int(header["sform_code"]) in _OF_PATIENT:
        pixdim = " x ".join(f"{length:.4g}" for length in spacing_mm)
        raise StudyError(
            path.name,
            f"spacing is {pixdim} mm by pixdim, but 1 x 1 x 1 mm by sform, whose scale was lost",
            "Convert the file anew from its source, or correct the sform or pixdim in its header.",
        )


def _compare(sform_grid: Grid, qform: Affine | None, to_mm: float) -> list[str]:
    if qform is None:
        return ["qform is not valid; sform is used"]
    qform[:3] *= to_mm
    distance_mm = sform_grid.distance_mm(Grid(sform_grid.shape, qform))
    if distance_mm <= PLACE_TOLERANCE_MM:
        return []
    return [f"qform and sform disagree by {distance_mm:.3g} mm at a corner; sform is used"]


def _standard(header: GeometryHeader) -> GeometryHeader:
    """Return a copy with pixdim as the standard means it: qfac 1 or -1, spacings positive."""
    standard = header.copy()
    if abs(float(standard["pixdim"][0])) != 1:
        standard["pixdim"][0] = 1
    standard["pixdim"][1:4] = np.abs(standard["pixdim"][1:4])
    return standard


def _read_qform(header: GeometryHeader) -> Affine | None:
    try:
        qform = np.array(_standard(header).get_qform(), dtype=np.float64)
    except (HeaderDataError, ValueError):
        return None
    return qform if np.isfinite(qform).all() else None


def _load(stored: Stored, layout: _Layout) -> npt.NDArray[Any]:
    voxels = stored.voxels(layout.shape_IJKN, layout.dtype)
    if layout.slope != 1 or layout.inter != 0:
        # Overflow gives infinity, which the checks on intensities find.
        with np.errstate(over="ignore", invalid="ignore"):
            voxels = voxels * layout.slope + layout.inter
    return voxels
