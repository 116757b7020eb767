"""The operations on a lattice in torch: on any device, in any precision, in a fixed order.

Axes: as in `lattice.py`; P = corners of a cell, D = axes of the lattice, U = cells that hold rows.
"""

import itertools
from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch.nn.functional import embedding_bag

from pipeline.postprocessing.crf.lattice import Lattice, Slab
from pipeline.transforms import upload

CHUNK = {"cpu": 2**14, "cuda": 2**20}
"""Rows whose corners are held at once: what stays in a cache; what keeps a GPU busy."""

SLAB = 2**17
"""Voxels of a volume that are added at once."""


def place(lattice: Lattice, index_N3: torch.Tensor, feature_NM: torch.Tensor) -> "TorchRows":
    """Find the places of rows on a lattice.

    Args:
        lattice: On which they lie.
        index_N3: `(N, 3)` voxel indices along I, J, K, from the lattice's first voxel on.
        feature_NM: `(N, M)` intensities in cells, from 0 to below the last cell border.
    """
    return TorchRows(lattice, index_N3, feature_NM)


class TorchRows:
    """The rows' places on a lattice; see `place`."""

    def __init__(self, lattice: Lattice, index_N3: torch.Tensor, feature_NM: torch.Tensor) -> None:
        self._lattice = lattice
        self._index_N3, self._feature_NM = index_N3, feature_NM
        self._steps = _steps(lattice)

    @cached_property
    def _sorted(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rows by cell, the cells that hold rows, and behind which row each of these ends.

        Sums over the rows of a cell are then sums over a range.
        """
        cell_N = torch.empty(len(self._index_N3), dtype=torch.int32, device=self._lattice.device)
        for start in range(0, len(cell_N), SLAB):
            part = slice(start, start + SLAB)
            cell_N[part] = _cells(self._lattice, self._index_N3[part], self._feature_NM[part])
        cell_N, order_N = cell_N.sort(stable=True)
        cell_U, number_U = torch.unique_consecutive(cell_N, return_counts=True)
        return order_N.int(), cell_U, number_U.cumsum(0).int()

    def splat(self, values_NW: torch.Tensor, grid_GW: torch.Tensor) -> None:
        """Add the values to the corners of their cells."""
        columns_W = torch.arange(values_NW.shape[1], device=values_NW.device)
        rows_in_order_N, cell_U, stop_U = self._sorted
        for cells, rows in self._ranges:
            first_UW = cell_U[cells, None].long() * len(columns_W) + columns_W
            offset_U = stop_U[cells] - rows.start
            offset_U = torch.nn.functional.pad(offset_U[:-1], (1, 0)).int()
            order_N = rows_in_order_N[rows]
            index_N3 = self._index_N3.index_select(0, order_N)
            feature_NM = self._feature_NM.index_select(0, order_N)
            weights = _weights_of(_parts(self._lattice, index_N3, feature_NM))
            for weight_N, step in zip(weights, self._steps, strict=True):
                sums_UW = embedding_bag(
                    order_N,
                    values_NW,
                    offset_U,
                    per_sample_weights=weight_N,
                    mode="sum",
                )
                # Each cell occurs once, so that additions keep their order on a GPU too.
                flat_UW = first_UW + step * len(columns_W)
                grid_GW.view(-1).index_add_(0, flat_UW.view(-1), sums_UW.view(-1))

    def gather(self, grid_GW: torch.Tensor, scale_N: torch.Tensor, values_NW: torch.Tensor) -> None:
        """Add to the values what the grid has at their places, times a scale."""
        chunk = _chunk(self._lattice)
        steps_P = upload(torch.tensor(self._steps, dtype=torch.int32), self._lattice.device)
        for start in range(0, len(self._index_N3), chunk):
            rows = slice(start, start + chunk)
            index_N3, feature_NM = self._index_N3[rows], self._feature_NM[rows]
            cell_NP = _cells(self._lattice, index_N3, feature_NM)[:, None] + steps_P
            weights = _weights_of(_parts(self._lattice, index_N3, feature_NM))
            weight_NP = torch.stack(list(weights)).T.contiguous()
            found_NW = embedding_bag(cell_NP, grid_GW, per_sample_weights=weight_NP, mode="sum")
            values_NW[rows] += found_NW.mul_(scale_N[rows, None])

    @cached_property
    def _ranges(self) -> list[tuple[slice, slice]]:
        """Ranges of cells, and of the rows in them, about `CHUNK` rows each.

        Looked for once: it makes the process wait for a GPU.
        """
        stop_U = self._sorted[-1]
        if not len(stop_U):
            return []
        chunk = _chunk(self._lattice)
        wanted = chunk * torch.arange(1, -(-len(self._index_N3) // chunk))
        found = torch.searchsorted(stop_U, upload(wanted.to(stop_U.dtype), stop_U.device))
        cuts = sorted(set(found.tolist()))
        ranges: list[tuple[slice, slice]] = []
        for first, last in itertools.pairwise([0, *(cut for cut in cuts if cut), len(stop_U)]):
            start = ranges[-1][1].stop if ranges else 0
            ranges.append((slice(first, last), slice(start, int(stop_U[last - 1]))))
        return ranges


def splat_volume(
    lattice: Lattice, slab: Slab, column_C: torch.Tensor, grid_GW: torch.Tensor
) -> None:
    """Add the voxels of a slab, each to one column of the grid.

    Args:
        lattice: Of the grid.
        slab: Of the voxels that the lattice is about.
        column_C: `(C,)` int8 column of each class; voxels of those with -1 are left out.
        grid_GW: Takes them.
    """
    column_IJK = column_C[slab.class_IJK.int()]
    index_N3 = (column_IJK >= 0).nonzero()
    for start in range(0, len(index_N3), SLAB):
        i_N, j_N, k_N = index_N3[start : start + SLAB].unbind(1)
        values_NW = grid_GW.new_zeros(len(i_N), grid_GW.shape[1])
        ones = 1 if slab.weight_IJK is None else slab.weight_IJK[i_N, j_N, k_N][:, None]
        values_NW.scatter_(1, column_IJK[i_N, j_N, k_N].long()[:, None], ones)
        rows_N3 = torch.stack([i_N + slab.first_plane, j_N, k_N], dim=1)
        feature_NM = slab.feature_MIJK[:, i_N, j_N, k_N].T
        TorchRows(lattice, rows_N3, feature_NM).splat(values_NW, grid_GW)


def _cells(lattice: Lattice, index_N3: torch.Tensor, feature_NM: torch.Tensor) -> torch.Tensor:
    """Return the first corner of each row's cell."""
    cell_N = torch.zeros(len(index_N3), dtype=torch.int64, device=lattice.device)
    for (cells, _), index_N in zip(lattice.places, index_N3.unbind(1), strict=True):
        cell_N += cells.index_select(0, index_N.int())
    for stride, feature_N in zip(lattice.strides[3:], feature_NM.unbind(1), strict=True):
        cell_N += stride * feature_N.long()
    return cell_N.int()


def _parts(
    lattice: Lattice, index_N3: torch.Tensor, feature_NM: torch.Tensor
) -> list[torch.Tensor]:
    """Return how far rows lie into their cells, along each axis."""
    columns = zip(lattice.places, index_N3.T.int().contiguous(), strict=True)
    of_position = [parts.index_select(0, index_N) for (_, parts), index_N in columns]
    return of_position + list(feature_NM.T.frac())


def _chunk(lattice: Lattice) -> int:
    return CHUNK.get(lattice.device.type, CHUNK["cuda"])


def _steps(lattice: Lattice) -> list[int]:
    """Return the way from a cell's first corner to each; the last axis changes fastest."""
    steps = [0]
    for stride in lattice.strides:
        steps = [step + side for step in steps for side in (0, stride)]
    return steps


def _weights_of(parts: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Yield the weights of each corner, in the order of `_steps`."""
    first_N, *others = parts
    for side_N in (1 - first_N, first_N):
        if others:
            yield from (side_N * weight_N for weight_N in _weights_of(others))
        else:
            yield side_N
