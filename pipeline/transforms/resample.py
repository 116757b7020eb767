"""Linear interpolation along the axes of a grid, one axis after the other.

Trilinear interpolation between grids whose axes are parallel separates into three one-dimensional
steps. That costs a fraction of a general three-dimensional gather and needs one volume at a time,
which is what keeps the way back to the native grid cheap for many classes.
"""

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.transforms.transfer import upload

MAX_CHUNK_VOXELS = 2**24
"""Voxels that are made at once: the neighbours of each are gathered into copies first."""

SLAB_VOXELS = 2**24
"""That go to a GPU at once; torch pins powers of two."""


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


def resample_view_on(
    view_IJK: npt.NDArray[np.floating[Any]],
    positions: Sequence[torch.Tensor],
    device: torch.device,
) -> torch.Tensor:
    """As `resample_view`, on a GPU, which never holds all of the array.

    It goes there slab by slab, through pinned memory. The steps and their order are the same; a GPU
    may round each of the three once less than a CPU (fused multiply-add), so that values differ by
    at most 2^-21 (5e-7) of the largest absolute value around: 0.0015 HU of 3071.

    Returns:
        `(n_I, n_J, n_K)` tensor on the device, in float32; the current stream computes it.
    """
    *first, last = _order(view_IJK.shape, positions)
    shape = [len(of_axis) for of_axis in positions]
    shape[last] = view_IJK.shape[last]
    parts_IJK = torch.empty(shape, device=device)
    edge = max(1, SLAB_VOXELS * view_IJK.shape[last] // view_IJK.size)
    on_their_way: deque[torch.cuda.Event] = deque()
    for start in range(0, view_IJK.shape[last], edge):
        along = slice(start, min(start + edge, view_IJK.shape[last]))
        part = np.moveaxis(view_IJK, last, 0)[along]
        slab_IJK = torch.empty(np.moveaxis(part, 0, last).shape, pin_memory=True)
        slab_IJK.numpy()[:] = np.moveaxis(part, 0, last)
        slab_IJK = slab_IJK.to(device, non_blocking=True)
        on_their_way.append(torch.cuda.Event(blocking=True))  # type: ignore[no-untyped-call]
        on_their_way[-1].record(torch.cuda.current_stream(device))
        for axis in first:
            slab_IJK = _along(slab_IJK, positions[axis], axis)
        parts_IJK.narrow(last, start, along.stop - start).copy_(slab_IJK)
        if len(on_their_way) > 2:
            # So that no more than three are pinned.
            on_their_way.popleft().synchronize()
    return _along(parts_IJK, positions[last], last)


def _resample(
    data_IJK: torch.Tensor, positions: Sequence[torch.Tensor], backwards: Sequence[bool]
) -> torch.Tensor:
    for axis in _order(data_IJK.shape, positions):
        data_IJK = _along(data_IJK, positions[axis], axis, back=backwards[axis])
    return data_IJK


def _order(shape: Sequence[int], positions: Sequence[torch.Tensor]) -> list[int]:
    """Return the axes; that which shrinks most first, so that the others have less to do."""
    return sorted(range(3), key=lambda axis: len(positions[axis]) / shape[axis])


def _along(
    data_IJK: torch.Tensor, positions: torch.Tensor, axis: int, *, back: bool = False
) -> torch.Tensor:
    size = data_IJK.shape[axis]
    whole = torch.arange(size, dtype=torch.float64)
    if len(positions) != size or not torch.equal(positions, whole):
        return _resample_axis(data_IJK, positions, axis, back=back)
    return data_IJK.flip(axis) if back else data_IJK


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
    device = data_IJK.device
    weight = upload((inside - low).to(data_IJK.dtype).reshape(weight_shape), device)
    if back:
        low, high = size - 1 - low, size - 1 - high
    low, high = upload(low, device), upload(high, device)
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
