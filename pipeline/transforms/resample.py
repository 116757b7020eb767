"""Linear interpolation along the axes of a grid, one axis after the other.

Trilinear interpolation between grids whose axes are parallel separates into three one-dimensional
steps. That costs a fraction of a general three-dimensional gather and needs one volume at a time,
which is what keeps the way back to the native grid cheap for many classes.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

MAX_CHUNK_VOXELS = 2**24
"""Voxels that are made at once: the neighbours of each are gathered into copies first."""


def resample_linear(data_IJK: torch.Tensor, positions: Sequence[torch.Tensor]) -> torch.Tensor:
    """Read a volume at fractional indices along each axis, linearly, repeating the border.

    Args:
        data_IJK: `(I, J, K)` floating tensor.
        positions: For each axis the `(n,)` indices to read at; outside `[0, size - 1]` the border
            voxel is repeated.

    Returns:
        `(n_I, n_J, n_K)` tensor of the same type.
    """
    return _resample(data_IJK, positions, (False, False, False))


def resample_view(
    view_IJK: npt.NDArray[np.floating[Any]], positions: Sequence[torch.Tensor]
) -> torch.Tensor:
    """As `resample_linear`, from an array seen backwards along some axes, without copying it.

    Torch knows no such views. So the array is read as it lies in memory, with indices that count
    from the other end.
    """
    backwards = [stride < 0 for stride in view_IJK.strides]
    forwards = view_IJK[tuple(slice(None, None, -1 if back else 1) for back in backwards)]
    return _resample(torch.from_numpy(forwards), positions, backwards)


def _resample(
    data_IJK: torch.Tensor, positions: Sequence[torch.Tensor], backwards: Sequence[bool]
) -> torch.Tensor:
    # The axis that shrinks most goes first, so that the others have less to do.
    order = sorted(range(3), key=lambda axis: len(positions[axis]) / data_IJK.shape[axis])
    for axis in order:
        size = data_IJK.shape[axis]
        whole = torch.arange(size, dtype=torch.float64)
        if len(positions[axis]) != size or not torch.equal(positions[axis], whole):
            data_IJK = _resample_axis(data_IJK, positions[axis], axis, back=backwards[axis])
        elif backwards[axis]:
            data_IJK = data_IJK.flip(axis)
    return data_IJK


def resample_nearest(data_IJK: torch.Tensor, positions: Sequence[torch.Tensor]) -> torch.Tensor:
    """Read a volume at the voxels nearest to fractional indices, as `resample_linear` takes them.

    Returns:
        `(n_I, n_J, n_K)` tensor of the same type. Half-way between two voxels the later one wins.
    """
    for axis, of_axis in enumerate(positions):
        nearest = (of_axis + 0.5).floor().long().clamp(0, data_IJK.shape[axis] - 1)
        data_IJK = data_IJK.index_select(axis, nearest.to(data_IJK.device))
    return data_IJK


def _resample_axis(
    data_IJK: torch.Tensor, positions: torch.Tensor, axis: int, *, back: bool
) -> torch.Tensor:
    size = data_IJK.shape[axis]
    inside = positions.clamp(0, size - 1)
    low = inside.floor().long()
    high = (low + 1).clamp(max=size - 1)
    weight_shape = [1, 1, 1]
    weight_shape[axis] = -1
    weight = (inside - low).to(data_IJK).reshape(weight_shape)
    if back:
        low, high = size - 1 - low, size - 1 - high
    low, high = low.to(data_IJK.device), high.to(data_IJK.device)
    shape = list(data_IJK.shape)
    shape[axis] = len(positions)
    resampled = data_IJK.new_empty(shape)
    across = max((other for other in range(3) if other != axis), key=lambda other: shape[other])
    number = math.ceil(math.prod(shape) / MAX_CHUNK_VOXELS)
    for source, target in zip(
        data_IJK.tensor_split(number, across), resampled.tensor_split(number, across), strict=True
    ):
        below, above = source.index_select(axis, low), source.index_select(axis, high)
        torch.lerp(below, above, weight, out=target)
    return resampled
