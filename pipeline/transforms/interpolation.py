"""Linear interpolation from the working grid to the native one, part by part.

As multiplications by small matrices, one for each axis: on parts that fit a processor's cache these
take half the time of gathering neighbours, and they treat several classes at once.

Axes: C = classes, I, J, K = voxel axes in RAS order.
"""

from collections.abc import Sequence

import torch

from pipeline.transforms.placement import AxisMap
from pipeline.transforms.transfer import upload

CPU = torch.device("cpu")


class AxisInterpolation:
    """How native voxels along one axis are made from working voxels.

    A part of the axis is named by the working indices `start` up to `stop`. To it belong the native
    voxels that lie beyond working index `start - 1` and not beyond `stop - 1`; with the last part,
    all that follow. So parts that share no working index share no native voxel, and together leave
    none out. To interpolate, the working voxel before `start` is needed too.

    Args:
        axis: The map of the axis.
    """

    def __init__(self, axis: AxisMap) -> None:
        positions = axis.working_positions()
        self._size = axis.num_working
        self._positions = positions.clamp(0, axis.num_working - 1)
        whole = torch.arange(axis.num_working, dtype=torch.float64)
        self.is_identity = torch.equal(positions, whole)
        self._matrices: dict[tuple[int, int, torch.device], torch.Tensor] = {}

    def cut(self, stop: int) -> int:
        """Return how many native voxels belong to the working voxels before `stop`."""
        if stop >= self._size:
            return len(self._positions)
        return int(torch.searchsorted(self._positions, float(stop - 1), right=True)) * (stop > 0)

    def matrix(self, start: int, stop: int, device: torch.device = CPU) -> torch.Tensor | None:
        """Return the weights of a part, or None if its native voxels are its working voxels.

        Returns:
            `(n, m)` float32 for n native voxels, and m working voxels from `max(start - 1, 0)`, on
            the device.
        """
        if self.is_identity:
            return None
        key = start, stop, device
        if key not in self._matrices:
            self._matrices[key] = upload(self._make_matrix(start, stop), device)
        return self._matrices[key]

    def _make_matrix(self, start: int, stop: int) -> torch.Tensor:
        first = max(start - 1, 0)
        positions = self._positions[self.cut(start) : self.cut(stop)]
        low = positions.floor()
        above = (positions - low).float()
        rows = torch.arange(len(positions))
        matrix = torch.zeros(len(positions), stop - first)
        column = low.long() - first
        matrix[rows, column] = 1 - above
        # Where a native voxel lies on a working one, there may be none above it.
        between = above > 0
        matrix[rows[between], column[between] + 1] = above[between]
        return matrix


def interpolate(
    values_CIJK: torch.Tensor, matrices: Sequence[torch.Tensor | None], order: Sequence[int]
) -> torch.Tensor:
    """Apply the matrices of a part to its working voxels.

    Args:
        values_CIJK: `(C, i, j, k)` float32, with the voxel before each part but an axis's first.
        matrices: Of each axis, from `AxisInterpolation.matrix`, on the values' device.
        order: Of the axes; the one that grows least first, so that the others have less to do.

    Returns:
        `(C, n_I, n_J, n_K)` float32.
    """
    for axis in order:
        matrix = matrices[axis]
        if matrix is None:
            continue
        if axis == 0:
            c, i, j, k = values_CIJK.shape
            values_CIJK = torch.matmul(matrix, values_CIJK.reshape(c, i, j * k)).view(c, -1, j, k)
        elif axis == 1:
            values_CIJK = torch.matmul(matrix, values_CIJK)
        else:
            values_CIJK = torch.matmul(values_CIJK, matrix.T)
    return values_CIJK
