"""The NIfTI header that outputs repeat: where the voxels lie, and nothing about the patient.

Needs nothing but nibabel and numpy, since exported bundles carry this module with them.

Source: NIfTI-1 and NIfTI-2 headers, nifti.nimh.nih.gov; field names are the standard's.
"""

from typing import TypeAlias

import nibabel as nib

from pipeline.volume import Grid

GeometryHeader: TypeAlias = nib.Nifti1Header | nib.Nifti2Header

NIFTI1_MAX_SIZE = 32767

PLACE_TOLERANCE_MM = 0.25
"""Largest distance between a corner by one statement of a header and by another, in mm, that is
still rounding.

Real files agree within 1e-5 mm; but near half a turn the float32 quaternion of a qform loses up to
about 0.2 mm over 300 mm.
"""

SPATIAL_UNITS_MASK = 0x07
"""The bits of `xyzt_units` that hold the unit of length."""

_TRANSFORM_FIELDS = (
    "qform_code",
    "sform_code",
    "quatern_b",
    "quatern_c",
    "quatern_d",
    "qoffset_x",
    "qoffset_y",
    "qoffset_z",
    "srow_x",
    "srow_y",
    "srow_z",
)


def geometry_header(raw: GeometryHeader) -> GeometryHeader:
    """Return a fresh little-endian header with the geometry of `raw`, bit for bit.

    Kept are pixdim[0:4], the qform and sform with their codes, and the unit of length. All else,
    free text and extensions above all, is left out, since it may name the patient.
    """
    header = type(raw)(endianness="<")
    for field in _TRANSFORM_FIELDS:
        header[field] = raw[field]
    header["pixdim"][:4] = raw["pixdim"][:4]
    header["xyzt_units"] = int(raw["xyzt_units"]) & SPATIAL_UNITS_MASK
    return header


def header_from_grid(grid: Grid) -> GeometryHeader:
    """Return a header for a grid that came from another format, with qform and sform code 1.

    It is NIfTI-1, since viewers built on ITK cannot open NIfTI-2; only an axis too long for
    NIfTI-1 makes it NIfTI-2. The float32 fields of NIfTI-1 move a voxel by less than 1e-4 mm; take
    the study's affine from the header, so that study and mask agree to the last bit.

    A qform cannot say that axes are sheared. Its code is then 0, so that nothing is placed by it.
    """
    is_too_long = max(grid.shape) > NIFTI1_MAX_SIZE
    header = (nib.Nifti2Header if is_too_long else nib.Nifti1Header)(endianness="<")
    header.set_xyzt_units(xyz="mm")
    header.set_qform(grid.affine, code=int(qform_error_mm(grid) <= PLACE_TOLERANCE_MM))
    header.set_sform(grid.affine, code=1)
    return header


def qform_error_mm(grid: Grid) -> float:
    """Return how far from its place, in mm, a qform puts the corner that it fits worst."""
    header = nib.Nifti1Header()
    header.set_qform(grid.affine, code=1)
    return grid.distance_mm(Grid(grid.shape, header.get_qform()))
