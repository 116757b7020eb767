"""The values that every stage shares: a grid in space, and voxels on a grid.

Conventions: world coordinates are RAS+ millimetres (x to the patient's right, y to the front, z to
the head). Arrays are indexed `(I, J, K)`; `C` counts channels. `affine` takes voxel indices
`(i, j, k, 1)`, at voxel centres, to world coordinates. LPS exists only where SimpleITK is called.
"""

from dataclasses import dataclass

import nibabel as nib
import numpy as np
import numpy.typing as npt

Affine = npt.NDArray[np.float64]

Slices = tuple[slice, slice, slice]
"""A box in a volume."""

LARGEST_LABEL = 2**16 - 1
"""Largest label value that data sets may use; more would size tables by it."""

IGNORE_INDEX = -1
"""Class index of a voxel that nobody annotated: it counts in no loss and in no score."""

PROBABILITY_STEPS = 255
"""Probabilities are handed on as whole multiples of 1/255, so rounding costs at most 1/510."""

GRID_TOLERANCE_MM = 1e-2
"""Largest distance between the corners of two grids that still count as the same grid, in mm.

Tools round affines differently (float32 NIfTI fields, text in NRRD headers), which moves corners by
micrometres; a true difference moves them by a fraction of a voxel or more.
"""


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a volume lie.

    Attributes:
        shape: Number of voxels along I, J, K.
        affine: `(4, 4)` float64, voxel index to RAS+ world, in mm.
    """

    shape: tuple[int, int, int]
    affine: Affine

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along I, J, K, in mm."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(i), float(j), float(k)

    @property
    def axis_codes(self) -> str:
        """Direction that each array axis runs towards, such as `"RAS"` or `"LPS"`."""
        return "".join(nib.aff2axcodes(self.affine))

    @property
    def num_voxels(self) -> int:
        """Number of voxels in the grid."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel in mm^3, right for sheared grids too."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    def corners_mm(self) -> npt.NDArray[np.float64]:
        """World coordinates of the eight corner voxels' centres, `(8, 3)`, in mm."""
        last = np.asarray(self.shape) - 1
        indices = np.array(np.meshgrid(*([0, n] for n in last), indexing="ij")).reshape(3, -1)
        return np.asarray((self.affine[:3, :3] @ indices).T + self.affine[:3, 3])

    def same_as(self, other: "Grid", tolerance_mm: float = GRID_TOLERANCE_MM) -> bool:
        """Tell whether both grids have the same shape and all corners within `tolerance_mm`."""
        return self.shape == other.shape and self.distance_mm(other) <= tolerance_mm

    def distance_mm(self, other: "Grid") -> float:
        """Largest distance between corresponding corners of two grids, in mm."""
        return float(np.linalg.norm(self.corners_mm() - other.corners_mm(), axis=1).max())


@dataclass(frozen=True)
class Volume:
    """Voxels on a grid.

    Attributes:
        data_CIJK: `(C, I, J, K)` array; one channel per sequence or phase.
        affine: `(4, 4)` float64, voxel index to RAS+ world, in mm.
    """

    data_CIJK: npt.NDArray[np.float32]
    affine: Affine

    @property
    def grid(self) -> Grid:
        """The grid that the voxels lie on."""
        _, i, j, k = self.data_CIJK.shape
        return Grid((i, j, k), self.affine)


@dataclass(frozen=True)
class LabelMap:
    """Labels on a grid: one whole number per voxel, 0 is background.

    Attributes:
        labels_IJK: `(I, J, K)` array of the smallest unsigned type that holds the labels.
        affine: `(4, 4)` float64, voxel index to RAS+ world, in mm.
    """

    labels_IJK: npt.NDArray[np.unsignedinteger]
    affine: Affine

    @property
    def grid(self) -> Grid:
        """The grid that the voxels lie on."""
        i, j, k = self.labels_IJK.shape
        return Grid((i, j, k), self.affine)


def smallest_label_type(largest: int) -> np.dtype[np.unsignedinteger]:
    """Return the smallest unsigned integer type that holds labels up to `largest`."""
    return np.dtype(np.min_scalar_type(largest))
