"""The operations on a lattice compiled by numba, for the CPU: several times as fast as in torch.

They compute what `torch_kernels.py` computes, row by row and so in a fixed order, in float32.

Axes: as in `lattice.py`; P = corners of a cell along the intensity axes.
"""

# Compiled functions have neither types nor classes; indices are unsigned since numba would else ask
# of each whether it counts from the end.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc"
# ruff: noqa: ANN001, ANN202, PLR0913

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numba import njit, uint64

from pipeline.postprocessing.crf.lattice import Lattice, Slab

WIDTHS = (1, 2, 4, 8)
"""Numbers of columns that there is code for: so few that they fit a processor's registers."""

_OPTIONS: dict[str, Any] = {"fastmath": True, "nogil": True, "error_model": "numpy"}


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function when it is first called; keep what was compiled for the next process."""
    try:
        compiled: Callable[..., Any] = njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # There is no folder that may be written to.
        compiled = njit(**_OPTIONS)(function)
    return compiled


def place(lattice: Lattice, index_N3: torch.Tensor, feature_NM: torch.Tensor) -> "NumbaRows":
    """Find the places of rows on a lattice; see `torch_kernels.place`."""
    return NumbaRows(lattice, index_N3.contiguous(), feature_NM.contiguous())


class NumbaRows:
    """The rows' places on a lattice; see `place`."""

    def __init__(self, lattice: Lattice, index_N3: torch.Tensor, feature_NM: torch.Tensor) -> None:
        self._lattice = lattice
        self._places = _places(lattice)
        self._rows = index_N3.numpy(), feature_NM.numpy()
        self._num_channels = feature_NM.shape[1]

    def splat(self, values_NW: torch.Tensor, grid_GW: torch.Tensor) -> None:
        """Add the values to the corners of their cells."""
        width = values_NW.shape[1]
        strides = _strides(self._lattice, width)
        splat = _splat(width, self._num_channels)
        splat(*self._rows, *self._places, strides, values_NW.numpy(), grid_GW.numpy().ravel())

    def gather(self, grid_GW: torch.Tensor, scale_N: torch.Tensor, values_NW: torch.Tensor) -> None:
        """Add to the values what the grid has at their places, times a scale."""
        width = grid_GW.shape[1]
        strides = _strides(self._lattice, width)
        gather = _gather(width, self._num_channels)
        grid = grid_GW.numpy().ravel()
        gather(*self._rows, *self._places, strides, grid, scale_N.numpy(), values_NW.numpy())


def splat_volume(
    lattice: Lattice, slab: Slab, column_C: torch.Tensor, grid_GW: torch.Tensor
) -> None:
    """Add the voxels of a slab, each to one column; see `torch_kernels.splat_volume`."""
    width = grid_GW.shape[1]
    weight_IJK = np.ones((1, 1, 1), np.float32)
    if slab.weight_IJK is not None:
        weight_IJK = slab.weight_IJK.numpy()
    arrays = slab.feature_MIJK.numpy(), slab.class_IJK.numpy(), weight_IJK
    splat = _splat_volume(len(slab.feature_MIJK))
    splat(
        (slab.first_plane, *arrays),
        column_C.numpy(),
        *_places(lattice),
        _strides(lattice, width),
        width,
        grid_GW.numpy().ravel(),
    )


def _places(lattice: Lattice) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.float32]]:
    """Return the cell of each voxel along I, J, K, and how far it lies into the cell."""
    longest = max(axis.num_voxels for axis in lattice.axes)
    cells, parts = np.zeros((3, longest), np.uint64), np.zeros((3, longest), np.float32)
    for axis, (cell, part) in enumerate(lattice.places):
        cells[axis, : len(cell)] = cell.numpy()
        parts[axis, : len(part)] = part.numpy()
    return cells, parts


def _strides(lattice: Lattice, width: int) -> npt.NDArray[np.uint64]:
    return np.array(lattice.strides, np.uint64) * np.uint64(width)


@_compiled
def _weight(corner, part_i, part_j, part_k):
    """Return the weight of one of the eight corners of a cell in space."""
    one = np.float32(1)
    weight_i = part_i if corner & 4 else one - part_i
    weight_j = part_j if corner & 2 else one - part_j
    return weight_i * weight_j * (part_k if corner & 1 else one - part_k)


@_compiled
def _step(corner, strides):
    """Return the way from the first of those corners to another, in the flattened grid."""
    step = strides[0] if corner & 4 else uint64(0)
    step += strides[1] if corner & 2 else uint64(0)
    return step + (strides[2] if corner & 1 else uint64(0))


@njit(inline="always")
def _find_corners(num_channels, feature_M, strides, step_P, weight_P):
    """Fill in the corners of a cell along the intensity axes: steps from the first, and weights."""
    step_P[0], weight_P[0] = uint64(0), np.float32(1)
    number = 1
    for channel in range(num_channels):
        cell = int(feature_M[channel])
        part = feature_M[channel] - np.float32(cell)
        for corner in range(number):
            step_P[corner] += uint64(cell) * strides[3 + channel]
            step_P[number + corner] = step_P[corner] + strides[3 + channel]
            weight_P[number + corner] = weight_P[corner] * part
            weight_P[corner] *= np.float32(1) - part
        number *= 2


# The functions below close over whole numbers, which the compiler then knows, so that it can unroll
# the innermost loops; and over nothing else, or their compiled code would not be found again.


@cache
def _splat(width: int, num_channels: int) -> Callable[..., None]:
    """Compile the adding of rows for a number of columns and channels."""
    num_corners = 2**num_channels

    @_compiled
    def splat(index_N3, feature_NM, cells, parts, strides, value_NW, grid):
        step_P, weight_P = np.empty(num_corners, np.uint64), np.empty(num_corners, np.float32)
        value_W = np.empty(width, np.float32)
        for row in range(index_N3.shape[0]):
            i, j, k = index_N3[row, 0], index_N3[row, 1], index_N3[row, 2]
            first = uint64(width) * (cells[0, i] + cells[1, j] + cells[2, k])
            part_i, part_j, part_k = parts[0, i], parts[1, j], parts[2, k]
            _find_corners(num_channels, feature_NM[row], strides, step_P, weight_P)
            for column in range(width):
                value_W[column] = value_NW[row, column]
            for corner in range(8):
                at_corner = first + _step(corner, strides)
                weight = _weight(corner, part_i, part_j, part_k)
                for other in range(num_corners):
                    at, share = at_corner + step_P[other], weight * weight_P[other]
                    for column in range(width):
                        grid[at + uint64(column)] += share * value_W[column]

    return splat


@cache
def _gather(width: int, num_channels: int) -> Callable[..., None]:
    """Compile the reading of rows for a number of columns and channels."""
    num_corners = 2**num_channels

    @_compiled
    def gather(index_N3, feature_NM, cells, parts, strides, grid, scale_N, value_NW):
        step_P, weight_P = np.empty(num_corners, np.uint64), np.empty(num_corners, np.float32)
        value_W = np.empty(width, np.float32)
        for row in range(index_N3.shape[0]):
            i, j, k = index_N3[row, 0], index_N3[row, 1], index_N3[row, 2]
            first = uint64(width) * (cells[0, i] + cells[1, j] + cells[2, k])
            part_i, part_j, part_k = parts[0, i], parts[1, j], parts[2, k]
            _find_corners(num_channels, feature_NM[row], strides, step_P, weight_P)
            for column in range(width):
                value_W[column] = np.float32(0)
            for corner in range(8):
                at_corner = first + _step(corner, strides)
                weight = _weight(corner, part_i, part_j, part_k)
                for other in range(num_corners):
                    at, share = at_corner + step_P[other], weight * weight_P[other]
                    for column in range(width):
                        value_W[column] += share * grid[at + uint64(column)]
            for column in range(width):
                value_NW[row, column] += scale_N[row] * value_W[column]

    return gather


@cache
def _splat_volume(num_channels: int) -> Callable[..., None]:
    """Compile the adding of a slab for a number of channels."""
    num_corners = 2**num_channels

    @_compiled
    def splat(slab, column_C, cells, parts, strides, width, grid):
        first_plane, feature_MIJK, class_IJK, weight_IJK = slab
        step_P, weight_P = np.empty(num_corners, np.uint64), np.empty(num_corners, np.float32)
        feature_M = np.empty(num_channels, np.float32)
        is_weighted = weight_IJK.shape == class_IJK.shape
        for plane in range(class_IJK.shape[0]):
            i = plane + first_plane
            for j in range(class_IJK.shape[1]):
                first_ij, part_ij = cells[0, i] + cells[1, j], (parts[0, i], parts[1, j])
                for k in range(class_IJK.shape[2]):
                    column = column_C[class_IJK[plane, j, k]]
                    if column < 0:
                        continue
                    first = uint64(width) * (first_ij + cells[2, k]) + uint64(column)
                    for channel in range(num_channels):
                        feature_M[channel] = feature_MIJK[channel, plane, j, k]
                    _find_corners(num_channels, feature_M, strides, step_P, weight_P)
                    value = weight_IJK[plane, j, k] if is_weighted else np.float32(1)
                    for corner in range(8):
                        at_corner = first + _step(corner, strides)
                        weight = value * _weight(corner, part_ij[0], part_ij[1], parts[2, k])
                        for other in range(num_corners):
                            grid[at_corner + step_P[other]] += weight * weight_P[other]

    return splat
