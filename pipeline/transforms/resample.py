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
from scipy import ndimage

from pipeline.transforms.ties import MAX_TIES, TIE, settle_ties

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
        data_IJK = data_IJK.index_select(axis, nearest)
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


def resample_labels(
    labels_IJK: torch.Tensor, positions: Sequence[torch.Tensor], num_classes: int
) -> torch.Tensor:
    """Resample class indices: each class's mask linearly, then the largest share wins.

    Smoother than the nearest neighbour at borders, and it never invents a class in between. Where
    the largest shares are equal, as is common half-way between voxels, `settle_ties` decides. Only
    classes that occur cost time, each in its own box.

    Args:
        labels_IJK: `(I, J, K)` class indices below `num_classes`; negative ones are of no class.
        positions: As in `resample_linear`.
        num_classes: Number of classes, background included.

    Returns:
        `(n_I, n_J, n_K)` tensor of the same type.
    """
    inside = [
        of_axis.clamp(0, size - 1)
        for of_axis, size in zip(positions, labels_IJK.shape, strict=True)
    ]
    best = resample_linear((labels_IJK == 0).float(), inside)
    winner = torch.zeros(best.shape, dtype=labels_IJK.dtype)
    is_tied = torch.zeros(best.shape, dtype=torch.bool)
    boxes = ndimage.find_objects(labels_IJK.numpy(), max_label=max(1, num_classes - 1))
    for index, box in enumerate(boxes, start=1):
        if box is None:
            continue
        reached = [_reached(*along) for along in zip(inside, box, strict=True)]
        if any(target.start == target.stop for _, target in reached):
            continue
        source = tuple(along for along, _ in reached)
        target = tuple(along for _, along in reached)
        at = [of_axis[t] - s.start for of_axis, (s, t) in zip(inside, reached, strict=True)]
        share = resample_linear((labels_IJK[source] == index).float(), at)
        lead = share - best[target]
        winner[target][lead > 0] = index
        is_tied[target] &= lead <= TIE
        is_tied[target] |= (lead.abs() <= TIE) & (share > TIE)
        best[target] = torch.maximum(best[target], share)
    for voxels in torch.split(is_tied.nonzero(), MAX_TIES):
        winner[tuple(voxels.T)] = settle_ties(labels_IJK, inside, voxels)
    return winner


def _reached(inside: torch.Tensor, box: slice) -> tuple[slice, slice]:
    """Return the voxels along an axis that a box has a share in, and those to read them from."""
    reached = ((inside > box.start - 1) & (inside < box.stop)).nonzero().flatten().tolist()
    target = slice(reached[0], reached[-1] + 1) if reached else slice(0, 0)
    return slice(max(box.start - 1, 0), box.stop + 1), target
