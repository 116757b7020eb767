"""Where an image plane of a DICOM series lies in a label map.

World coordinates are RAS+ mm; DICOM gives LPS+, which `plane_from_dicom` alone knows. A plane is
found in a label map through the label map's affine, whatever the order and direction of its axes.

Axes: I, J, K = voxel axes of the label map; rows and columns = of the DICOM image.

Source: DICOM PS3.3 C.7.6.2.1.1 (position and orientation of the image plane).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.volume import Grid

POSITION_TOLERANCE_VOXELS = 0.25
"""How far the corners of an image plane may lie from those of a slice of the label map, in voxels.

Readers make one regular affine of positions that headers round to tenths of a millimetre, and of
directions that differ a little between images. A grid that is not the source's (resampled, shifted
by half a voxel, another series) is farther off in some corner.
"""

_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Plane:
    """The plane of a DICOM image or frame.

    Attributes:
        origin_mm: Centre of the first pixel of the first row, RAS+.
        row_step_mm: From one row to the next, RAS+.
        column_step_mm: From one column to the next, RAS+.
        shape: Number of rows and of columns.
    """

    origin_mm: npt.NDArray[np.float64]
    row_step_mm: npt.NDArray[np.float64]
    column_step_mm: npt.NDArray[np.float64]
    shape: tuple[int, int]

    @property
    def normal(self) -> npt.NDArray[np.float64]:
        """Unit vector across the plane."""
        across = np.cross(self.column_step_mm, self.row_step_mm)
        return np.asarray(across / np.linalg.norm(across))


@dataclass(frozen=True)
class Slice:
    """A slice of a label map, seen as rows and columns of an image.

    Attributes:
        axis: The label map's axis across the slice.
        index: Along that axis.
        is_transposed: Whether the image's rows run along the later of the two other axes.
        flips: Whether rows and columns run against their axes.
    """

    axis: int
    index: int
    is_transposed: bool
    flips: tuple[bool, bool]

    def of(self, labels_IJK: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a view of the slice, `(rows, columns)`."""
        view = labels_IJK[(slice(None),) * self.axis + (self.index,)]
        if self.is_transposed:
            view = view.T
        rows, columns = (slice(None, None, -1 if flip else 1) for flip in self.flips)
        return view[rows, columns]


def plane_from_dicom(
    position: Sequence[float],
    orientation: Sequence[float],
    spacing: Sequence[float],
    shape: tuple[int, int],
) -> Plane:
    """Return a plane from what DICOM says of it.

    Args:
        position: ImagePositionPatient, LPS+ mm.
        orientation: ImageOrientationPatient: direction of a row, then of a column, LPS+.
        spacing: PixelSpacing: between rows, then between columns, in mm.
        shape: Rows and Columns.
    """
    along_row, along_column = np.asarray(orientation, dtype=np.float64).reshape(2, 3) * _LPS_TO_RAS
    return Plane(
        origin_mm=np.asarray(position, dtype=np.float64) * _LPS_TO_RAS,
        row_step_mm=along_column * float(spacing[0]),
        column_step_mm=along_row * float(spacing[1]),
        shape=shape,
    )


def find_slice(plane: Plane, grid: Grid) -> Slice:
    """Return the slice of a label map on `grid` that lies on an image plane.

    Raises:
        ValueError: If no slice does, within `POSITION_TOLERANCE_VOXELS` in every corner.
    """
    from_world = np.linalg.inv(grid.affine)
    origin = from_world[:3, :3] @ plane.origin_mm + from_world[:3, 3]
    steps = np.stack([plane.row_step_mm, plane.column_step_mm]) @ from_world[:3, :3].T
    nearest_steps = np.rint(steps).astype(int)
    row_axis, column_axis = (int(np.argmax(np.abs(step))) for step in nearest_steps)
    if row_axis == column_axis or not (np.abs(nearest_steps).sum(axis=1) == 1).all():
        raise ValueError("its pixels are not the voxels of the label map")
    nearest_origin = np.rint(origin).astype(int)
    off = _largest_corner_distance(origin - nearest_origin, steps - nearest_steps, plane.shape)
    if off > POSITION_TOLERANCE_VOXELS:
        raise ValueError(f"it lies {off:.2g} voxels off the label map's voxels")
    flips = (bool(nearest_steps[0, row_axis] < 0), bool(nearest_steps[1, column_axis] < 0))
    axis = 3 - row_axis - column_axis
    expected = np.zeros(3, dtype=int)
    expected[axis] = nearest_origin[axis]
    for this, flip in zip((row_axis, column_axis), flips, strict=True):
        expected[this] = grid.shape[this] - 1 if flip else 0
    is_inside = 0 <= nearest_origin[axis] < grid.shape[axis]
    same_size = plane.shape == (grid.shape[row_axis], grid.shape[column_axis])
    if not (is_inside and same_size and (expected == nearest_origin).all()):
        raise ValueError("it covers other voxels than the label map")
    return Slice(axis, int(nearest_origin[axis]), row_axis > column_axis, flips)


def _largest_corner_distance(
    origin: npt.NDArray[np.float64], steps: npt.NDArray[np.float64], shape: tuple[int, int]
) -> float:
    corners = [
        origin + row * steps[0] + column * steps[1]
        for row in (0, shape[0] - 1)
        for column in (0, shape[1] - 1)
    ]
    return float(np.abs(corners).max())
