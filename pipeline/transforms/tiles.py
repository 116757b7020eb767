"""Parts of the way back: blocks of probabilities, and tiles that fit a processor's cache.

Axes: C = classes or regions, I, J, K = voxel axes.

Axes: I, J, K = voxel axes in RAS order.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from pipeline.transforms.interpolation import AxisInterpolation
from pipeline.transforms.placement import Placement
from pipeline.volume import Slices


@dataclass(frozen=True)
class ProbabilityBlock:
    """Finished probabilities of a box of working voxels.

    Attributes:
        values_CIJK: `(C, i, j, k)`, of any floating type. Along an axis on which the box does not
            begin at the volume's border, it begins with the last voxel of the box before it.
        start: Working index of the first voxel along each axis.
    """

    values_CIJK: torch.Tensor
    start: tuple[int, int, int]


class ProbabilitySink(Protocol):
    """Takes the probabilities of classes or regions on the study's own grid, part by part."""

    def put(self, index: int, box: Slices, steps_IJK: npt.NDArray[np.uint8] | int) -> None:
        """Take a part of one output's probabilities; what is never put is 0.

        Args:
            index: Of the class (background is 0) or the region.
            box: Where the part lies, in voxels of the study's file.
            steps_IJK: Multiples of 1 / `PROBABILITY_STEPS` in the file's voxel order, or the same
                one for the whole box.
        """


TILE_VOXELS = {"cpu": 2**18, "cuda": 2**21}
"""Native voxels of a tile, about: what one core's cache holds; what keeps a GPU busy."""


@dataclass(frozen=True)
class Tile:
    """A part of a block: where it is read, where it is written, and the weights between.

    Attributes:
        working: In the block, with the voxel before it that interpolation needs.
        native: In the study, in RAS order.
        matrices: Of each axis; None where native voxels are working voxels.
    """

    working: Slices
    native: Slices
    matrices: tuple[torch.Tensor | None, ...]


class Tiling:
    """Says which native voxels belong to which working voxels of a study.

    Args:
        placement: Of the study.

    Attributes:
        order: Of the axes to interpolate along; the one that grows least first.
    """

    def __init__(self, placement: Placement) -> None:
        self._axes = [AxisInterpolation(axis) for axis in placement.axes]
        self._growth = [axis.num_native / axis.num_working for axis in placement.axes]
        self._first = [first for first, _ in placement.box]
        self.order = sorted(range(3), key=lambda axis: self._growth[axis])

    def tiles(self, block: ProbabilityBlock) -> Iterator[Tile]:
        """Cut a block; tiles without native voxels are left out."""
        device = block.values_CIJK.device
        along_axes = self._cuts(block)
        for parts in itertools.product(*along_axes):
            with_axis = list(zip(self._axes, parts, strict=True))
            read_from = [a - (a > 0 and not axis.is_identity) for axis, (a, _) in with_axis]
            native = _slices(
                (first + axis.cut(a), first + axis.cut(b))
                for first, (axis, (a, b)) in zip(self._first, with_axis, strict=True)
            )
            matrices = tuple(axis.matrix(a, b, device) for axis, (a, b) in with_axis)
            yield Tile(
                _slices(
                    (read - start, b - start)
                    for read, start, (_, b) in zip(read_from, block.start, parts, strict=True)
                ),
                native,
                matrices,
            )

    def _cuts(self, block: ProbabilityBlock) -> list[list[tuple[int, int]]]:
        """Cut each axis, the slowest in memory most, so that tiles stay whole in memory."""
        own = _own_voxels(block)
        lengths = [stop - start for start, stop in own]
        num_native = math.prod(n * more for n, more in zip(lengths, self._growth, strict=True))
        device = block.values_CIJK.device
        number = math.ceil(num_native / TILE_VOXELS[device.type])
        strides = block.values_CIJK.stride()[1:]
        cuts: list[list[tuple[int, int]]] = [[], [], []]
        for axis in sorted(range(3), key=lambda axis: -strides[axis]):
            along = max(1, min(number, lengths[axis]))
            number = math.ceil(number / along)
            cuts[axis] = self._cut(axis, own[axis], along)
        return cuts

    def _cut(self, axis: int, ends: tuple[int, int], number: int) -> list[tuple[int, int]]:
        start, stop = ends
        cuts = [start + round(index * (stop - start) / number) for index in range(number + 1)]
        own = self._axes[axis]
        return [(a, b) for a, b in itertools.pairwise(cuts) if own.cut(a) < own.cut(b)]


def _own_voxels(block: ProbabilityBlock) -> list[tuple[int, int]]:
    """Return the working voxels of a block along each axis, without those of the block before."""
    size = block.values_CIJK.shape[1:]
    return [(start + (start > 0), start + n) for start, n in zip(block.start, size, strict=True)]


def _slices(ends: Iterable[tuple[int, int]]) -> Slices:
    i, j, k = (slice(start, stop) for start, stop in ends)
    return i, j, k
