"""The operations on a lattice compiled by numba, for the CPU: several times as fast as in torch.

They compute what `torch_kernels.py` computes, row by row and so in a fixed order, in float32.

Axes: as in `lattice.py`; P = corners of a cell along the intensity axes.
"""

# Compiled functions have neither types nor classes; indices are unsigned since numba would else look
# at each whether it counts from the end.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc"
# ruff: noqa: ANN001, ANN202

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numba import njit, uint64

from pipeline.postprocessing.crf.lattice import Lattice

WIDTHS = (1, 2, 4, 8)
"""Numbers of columns that there is code for: so few that they fit a processor's registers."""

_OPTIONS: dict[str, Any] = {
    "fastmath": True, "nogil": True, "error_model": "numpy", "cache": True
}  # fmt: skip


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
        splat, _, _ = _kernels(width, self._num_channels)
        splat(*self._rows, *self._places, strides, values_NW.numpy(), grid_GW.numpy().ravel())

    def gather(
        self, grid_GW: torch.Tensor, scale_N: torch.Tensor, values_NW: torch.Tensor
    ) -> None:
        """Add to the values what the grid has at their places, times a scale."""
        width = grid_GW.shape[1]
        strides = _strides(self._lattice, width)
        _, gather, _ = _kernels(width, self._num_channels)
        grid = grid_GW.numpy().ravel()
        gather(*self._rows, *self._places, strides, grid, scale_N.numpy(), values_NW.numpy())


def splat_volume(
    lattice: Lattice,
    first_plane: int,
    feature_MIJK: torch.Tensor,
    class_IJK: torch.Tensor,
    column_C: torch.Tensor,
    weight_IJK: torch.Tensor | None,
    grid_GW: torch.Tensor,
) -> None:
    """Add voxels of a slab, each to one column of the grid; see `torch_kernels.splat_volume`."""
    width = grid_GW.shape[1]
    weight = np.ones((1, 1, 1), np.float32) if weight_IJK is None else weight_IJK.numpy()
    _, _, splat = _kernels(width, len(feature_MIJK))
    splat(
        first_plane,
        feature_MIJK.numpy(),
        class_IJK.numpy(),
        column_C.numpy(),
        weight,
        *_places(lattice),
        _strides(lattice, width),
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


@cache
def _kernels(width: int, num_channels: int) -> tuple[Callable[..., None], ...]:
    """Compile splat, gather and volume splat for a number of columns and intensity channels.

    Both numbers are constants to the compiler, so that it can unroll the innermost loops.
    """
    num_corners = 2**num_channels
    one = np.float32(1)

    @njit(**_OPTIONS)
    def find_corners(feature, strides, step_P, weight_P):
        """Fill in the corners along the intensity axes: steps from the first one, and weights."""
        step_P[0], weight_P[0] = 0, one
        number = 1
        for channel in range(num_channels):
            cell = int(feature[channel])
            part = feature[channel] - np.float32(cell)
            stride = strides[3 + channel]
            for corner in range(number):
                step_P[corner] += uint64(cell) * stride
                step_P[number + corner] = step_P[corner] + stride
                weight_P[number + corner] = weight_P[corner] * part
                weight_P[corner] *= one - part
            number *= 2

    @njit(**_OPTIONS)
    def splat(index_N3, feature_NM, cells, parts, strides, value_NW, grid):
        step_P, weight_P = np.empty(num_corners, np.uint64), np.empty(num_corners, np.float32)
        value_W = np.empty(width, np.float32)
        for row in range(index_N3.shape[0]):
            i, j, k = index_N3[row, 0], index_N3[row, 1], index_N3[row, 2]
            find_corners(feature_NM[row], strides, step_P, weight_P)
            first = uint64(width) * (cells[0, i] + cells[1, j] + cells[2, k])
            for column in range(width):
                value_W[column] = value_NW[row, column]
            for di in range(2):
                weight_i = parts[0, i] if di else one - parts[0, i]
                at_i = first + strides[0] * uint64(di)
                for dj in range(2):
                    weight_j = weight_i * (parts[1, j] if dj else one - parts[1, j])
                    at_j = at_i + strides[1] * uint64(dj)
                    for dk in range(2):
                        weight_k = weight_j * (parts[2, k] if dk else one - parts[2, k])
                        at_k = at_j + strides[2] * uint64(dk)
                        for corner in range(num_corners):
                            weight = weight_k * weight_P[corner]
                            at = at_k + step_P[corner]
                            for column in range(width):
                                grid[at + uint64(column)] += weight * value_W[column]

    @njit(**_OPTIONS)
    def gather(index_N3, feature_NM, cells, parts, strides, grid, scale_N, value_NW):
        step_P, weight_P = np.empty(num_corners, np.uint64), np.empty(num_corners, np.float32)
        value_W = np.empty(width, np.float32)
        for row in range(index_N3.shape[0]):
            i, j, k = index_N3[row, 0], index_N3[row, 1], index_N3[row, 2]
            find_corners(feature_NM[row], strides, step_P, weight_P)
            first = uint64(width) * (cells[0, i] + cells[1, j] + cells[2, k])
            value_W[:] = 0
            for di in range(2):
                weight_i = parts[0, i] if di else one - parts[0, i]
                at_i = first + strides[0] * uint64(di)
                for dj in range(2):
                    weight_j = weight_i * (parts[1, j] if dj else one - parts[1, j])
                    at_j = at_i + strides[1] * uint64(dj)
                    for dk in range(2):
                        weight_k = weight_j * (parts[2, k] if dk else one - parts[2, k])
                        at_k = at_j + strides[2] * uint64(dk)
                        for corner in range(num_corners):
                            weight = weight_k * weight_P[corner]
                            at = at_k + step_P[corner]
                            for column in range(width):
                                value_W[column] += weight * grid[at + uint64(column)]
            for column in range(width):
                value_NW[row, column] += scale_N[row] * value_W[column]

    @njit(**_OPTIONS)
    def splat_voxels(
        first_plane, feature_MIJK, class_IJK, column_C, weight_IJK, cells, parts, strides, grid
    ):
        step_P, weight_P = np.empty(num_corners, np.uint64), np.empty(num_corners, np.float32)
        feature = np.empty(num_channels, np.float32)
        is_weighted = weight_IJK.size > 1
        size_i, size_j, size_k = class_IJK.shape
        for plane in range(size_i):
            i = plane + first_plane
            for j in range(size_j):
                at_ij = cells[0, i] + cells[1, j]
                for k in range(size_k):
                    column = column_C[class_IJK[plane, j, k]]
                    if column < 0:
                        continue
                    for channel in range(num_channels):
                        feature[channel] = feature_MIJK[channel, plane, j, k]
                    find_corners(feature, strides, step_P, weight_P)
                    first = uint64(width) * (at_ij + cells[2, k]) + uint64(column)
                    value = weight_IJK[plane, j, k] if is_weighted else one
                    for di in range(2):
                        weight_i = value * (parts[0, i] if di else one - parts[0, i])
                        at_i = first + strides[0] * uint64(di)
                        for dj in range(2):
                            weight_j = weight_i * (parts[1, j] if dj else one - parts[1, j])
                            at_j = at_i + strides[1] * uint64(dj)
                            for dk in range(2):
                                weight_k = weight_j * (parts[2, k] if dk else one - parts[2, k])
                                at_k = at_j + strides[2] * uint64(dk)
                                for corner in range(num_corners):
                                    grid[at_k + step_P[corner]] += weight_k * weight_P[corner]

    return splat, gather, splat_voxels
