"""Intensities as the appearance kernel sees them: in cells of the lattice.

Axes: I, J, K = voxel axes, M = intensity channels, N = voxels of the band.
"""

import math
from dataclasses import dataclass

import torch

from pipeline.volume import Slices

MAD_TO_SIGMA = 1.4826
"""The median absolute deviation of a normal distribution, times this, is its standard deviation."""

WINDOW = 16
"""Cells to each side of the band's median beyond which intensities count as alike.

Air, metal and bone would else make the lattice many times larger, for differences that no boundary
of a structure needs.
"""

_INSIDE = 1e-3
"""How far, in cells, the largest intensity stays below the last cell border."""


@dataclass(frozen=True)
class Intensities:
    """The image, and how it maps to cells.

    Attributes:
        image_MIJK: `(M, I, J, K)` intensities in the image's units.
        low_M: What counts as 0 cells.
        high_M: What counts as most; larger intensities count as this.
        cell_M: Width of a cell.
    """

    image_MIJK: torch.Tensor
    low_M: tuple[float, ...]
    high_M: tuple[float, ...]
    cell_M: tuple[float, ...]

    @property
    def num_cells(self) -> tuple[int, ...]:
        """Number of cell borders of each channel."""
        ranges = zip(self.low_M, self.high_M, self.cell_M, strict=True)
        return tuple(math.floor((high - low) / cell) + 2 for low, high, cell in ranges)

    def of_box(self, box: Slices) -> torch.Tensor:
        """Return `(M, i, j, k)` cells of the voxels of a box."""
        i, j, k = box
        return self._in_cells(self.image_MIJK[:, i, j, k])

    def of_voxels(self, voxel_N: torch.Tensor) -> torch.Tensor:
        """Return `(N, M)` cells of voxels, given by their indices into the flattened volume."""
        flat = (channel.reshape(-1).index_select(0, voxel_N) for channel in self.image_MIJK)
        return self._in_cells(torch.stack(list(flat))).T.contiguous()

    def _in_cells(self, values: torch.Tensor) -> torch.Tensor:
        cells = torch.empty_like(values, memory_format=torch.contiguous_format)
        ranges = zip(self.low_M, self.high_M, self.cell_M, self.num_cells, strict=True)
        for channel, (low, high, cell, number) in enumerate(ranges):
            most = min((high - low) / cell, number - 1 - _INSIDE)
            torch.sub(values[channel], low, out=cells[channel])
            cells[channel].div_(cell).clamp_(0, most)
        return cells


def measure(
    image_MIJK: torch.Tensor, voxel_N: torch.Tensor, theta: float, unit: float | None
) -> Intensities:
    """Find the scale of an image's intensities at the voxels that may change.

    Args:
        image_MIJK: `(M, I, J, K)`.
        voxel_N: Those voxels; at least one.
        theta: Width of a cell, in units.
        unit: In the image's units; None: 1.4826 times the median absolute deviation, which neither
            outliers nor the scale of an MR image touch.
    """
    lows, highs, cells = [], [], []
    for channel_IJK in image_MIJK:
        values_N = channel_IJK.reshape(-1).index_select(0, voxel_N)
        median = float(values_N.median())
        spread = MAD_TO_SIGMA * float((values_N - median).abs().median())
        # An image of one intensity has no appearance; any unit will do.
        cell = theta * (unit or spread or float(values_N.std(correction=0)) or 1.0)
        lows.append(max(float(channel_IJK.min()), median - WINDOW * cell))
        highs.append(min(float(channel_IJK.max()), median + WINDOW * cell))
        cells.append(cell)
    return Intensities(image_MIJK, tuple(lows), tuple(highs), tuple(cells))
