"""The values that every stage shares: a grid in space, and voxels on a grid.

Conventions: world coordinates are RAS+ millimetres (x to the patient's right, y to the front, z to
the head). Arrays are indexed `(I, J, K)`; `C` counts channels. `affine` takes voxel indices
`(i, j, k, 1)`, at voxel centres, to world coordinates. LPS exists only where SimpleITK is called.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations, product
from typing import TypeVar

import nibabel as nib
import numpy as np
import numpy.typing as npt

Affine = npt.NDArray[np.float64]
Scalar = TypeVar("Scalar", bound=np.generic)

Slices = tuple[slice, slice, slice]
"""A box in a volume."""

LARGEST_LABEL = 2**16 - 1
"""Largest label value that data sets may use; more would size tables by it."""

IGNORE_INDEX = -1
"""Class index of a voxel that nobody annotated: it counts in no loss and in no score."""

PROBABILITY_STEPS = 255
"""Probabilities are handed on as whole multiples of 1/255, so rounding costs at most 1/510."""

GRID_TOLERANCE_VOXELS = 0.1
"""Largest distance between the corners of two grids that still count as the same grid.

Along each axis, as a share of the voxel: tools round affines differently (spacings to 0.001 mm,
origins to 0.1 mm), which moves corners by a few percent of a voxel; a true difference moves them by
half a voxel or more.
"""

GRID_ROUNDING_MM = 1e-2
"""Distance between the corners of two grids, in mm, that no format's own rounding exceeds.

Float32 NIfTI fields and text in NRRD headers move corners by micrometres.
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

    def same_as(self, other: "Grid") -> bool:
        """Tell whether both grids have the same voxels in the same order, but for rounding."""
        return self.shape == other.shape and _alignment(self, other, _AS_STORED).is_same

    def distance_mm(self, other: "Grid") -> float:
        """Largest distance between corresponding corners of two grids, in mm."""
        return float(np.linalg.norm(self.corners_mm() - other.corners_mm(), axis=1).max())

    def aligned_to(self, other: "Grid") -> "Alignment | None":
        """Return how this grid's axes come to run as those of another, by their corners.

        Of all orders and directions of the axes it is the one that brings the corners nearest to
        those of the other grid; None if none gives the other's shape.
        """
        possible = [
            _alignment(self, other, order)
            for order in _orders()
            if tuple(self.shape[axis] for axis, _ in order) == other.shape
        ]
        # Of equals the first, which is as stored: one voxel has no direction.
        return min(possible, key=lambda each: each.distance_mm, default=None)


Order = tuple[tuple[int, bool], ...]
"""Of each new axis the old one that runs along it, and whether in the other direction."""

_AS_STORED: Order = ((0, False), (1, False), (2, False))


@dataclass(frozen=True)
class Alignment:
    """How a grid's voxels are put in the order of another grid, and how far apart they then lie.

    Attributes:
        order: Of each axis of the other grid, which own one it is, and whether reversed.
        distance_mm: Largest distance between corresponding corners, in mm.
        distance_voxels: The same along one axis, as a share of the other grid's voxel.
    """

    order: Order
    distance_mm: float
    distance_voxels: float

    @property
    def is_same(self) -> bool:
        """Whether the voxels of both grids are the same points, but for rounding."""
        return self.distance_voxels <= GRID_TOLERANCE_VOXELS

    @property
    def is_as_stored(self) -> bool:
        """Whether the axes already run as those of the other grid."""
        return self.order == _AS_STORED

    def view(self, voxels_IJKN: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        """See voxels in the other grid's order, without a copy; more axes may follow the three."""
        following = range(3, voxels_IJKN.ndim)
        seen = voxels_IJKN.transpose(*(axis for axis, _ in self.order), *following)
        return seen[tuple(slice(None, None, -1 if flips else 1) for _, flips in self.order)]


def _orders() -> Iterator[Order]:
    """Yield the 48 ways to order three axes and their directions, as stored first."""
    for axes in permutations(range(3)):
        for flips in product((False, True), repeat=3):
            yield tuple(zip(axes, flips, strict=True))


def _alignment(grid: Grid, other: Grid, order: Order) -> Alignment:
    axes = np.zeros((4, 4))
    axes[3, 3] = 1
    for new, (old, flips) in enumerate(order):
        axes[old, new] = -1 if flips else 1
        axes[old, 3] = grid.shape[old] - 1 if flips else 0
    moved_mm = Grid(other.shape, grid.affine @ axes).corners_mm() - other.corners_mm()
    # Along the voxel's own edges, which need not be at right angles.
    moved_voxels = np.linalg.solve(other.affine[:3, :3], moved_mm.T)
    distance_mm = float(np.linalg.norm(moved_mm, axis=1).max())
    return Alignment(order, distance_mm, float(np.abs(moved_voxels).max()))


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
        warnings: What was odd but acceptable in their file, one sentence each.
    """

    labels_IJK: npt.NDArray[np.unsignedinteger]
    affine: Affine
    warnings: tuple[str, ...] = ()

    @property
    def grid(self) -> Grid:
        """The grid that the voxels lie on."""
        i, j, k = self.labels_IJK.shape
        return Grid((i, j, k), self.affine)


def smallest_label_type(largest: int) -> np.dtype[np.unsignedinteger]:
    """Return the smallest unsigned integer type that holds labels up to `largest`."""
    return np.dtype(np.min_scalar_type(largest))


def hash_voxels(volume: Volume) -> str:
    """Return the SHA-256 of a volume's values, the same in whatever order and type they are stored.

    Spacing and place do not count: a copy whose header was changed is a copy.
    """
    to_ras = nib.io_orientation(volume.affine)
    digest = hashlib.sha256()
    for channel_IJK in volume.data_CIJK:
        view = nib.orientations.apply_orientation(channel_IJK, to_ras)
        digest.update(repr(view.shape).encode())
        # One slice at a time: a whole volume in another memory order would be copied.
        for k in range(view.shape[2]):
            # Minus zero is zero.
            digest.update(np.ascontiguousarray(view[..., k].T + np.float32(0)).data)
    return digest.hexdigest()
