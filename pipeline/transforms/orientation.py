"""A file's voxel order and RAS order: the same voxels, seen along other axes, without a copy.

Nothing is rotated: axes are put in order and reversed, by which world axis each is closest to.
"""

from typing import TypeVar

import nibabel as nib
import numpy as np
import numpy.typing as npt

from pipeline.volume import Affine, Grid, Slices

Scalar = TypeVar("Scalar", bound=np.generic)


def ras_grid(native: Grid) -> Grid:
    """Return the same grid with its axes in RAS order."""
    to_ras = nib.io_orientation(native.affine)
    shape = np.empty(3, dtype=int)
    shape[to_ras[:, 0].astype(int)] = native.shape
    i, j, k = (int(size) for size in shape)
    affine = native.affine @ nib.orientations.inv_ornt_aff(to_ras, native.shape)
    return Grid((i, j, k), np.asarray(affine, dtype=np.float64))


def ras_view(native_IJK: npt.NDArray[Scalar], affine: Affine) -> npt.NDArray[Scalar]:
    """See an array in a file's voxel order along R, A and S; writing to the view writes to it.

    What is asked is the file's own affine: asking anew for a reordered one, as MONAI's
    `Orientation` would on the way back, gives other axes where the scan is as close to one as to
    another (45 degrees).
    """
    view: npt.NDArray[Scalar] = nib.orientations.apply_orientation(
        native_IJK, nib.io_orientation(affine)
    )
    return view


def native_part(
    part_IJK: npt.NDArray[Scalar], box: Slices, native: Grid
) -> tuple[npt.NDArray[Scalar], Slices]:
    """Bring a part of a RAS volume to the file's voxel order.

    Args:
        part_IJK: The voxels, `(i, j, k)` along R, A, S.
        box: Where they lie in the whole volume in RAS order; with starts and stops.
        native: The grid of the file.

    Returns:
        The part as a view in the file's voxel order, and where it lies there.
    """
    to_ras = nib.io_orientation(native.affine)
    part_IJK = part_IJK.transpose([int(axis) for axis in to_ras[:, 0]])
    slices = []
    for own, (axis, direction) in enumerate(to_ras):
        along = box[int(axis)]
        if direction < 0:
            part_IJK = np.flip(part_IJK, own)
            size = native.shape[own]
            along = slice(size - along.stop, size - along.start)
        slices.append(along)
    i, j, k = slices
    return part_IJK, (i, j, k)
