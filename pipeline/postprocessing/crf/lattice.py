"""A coarse lattice over position and intensity, on which far-reaching messages are cheap.

Axes: I, J, K = voxel axes, M = intensity channels, N = voxels of the band.

A Gaussian filter over millions of voxels in the space of position and intensity becomes: spread
each voxel's value to the corners of its lattice cell, blur the lattice along each axis, and read
each voxel from the corners again. A cell is one standard deviation wide.

Axes: I, J, K = voxel axes; M = intensity channels; N = rows, the voxels that take part; W = columns
(classes); G = cells, in the order of `Lattice.sizes`, the last axis fastest.

Source:
    Chen, Paris and Durand, Real-time Edge-Aware Image Processing with the Bilateral Grid, SIGGRAPH
    2007, doi:10.1145/1276377.1276506.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from pipeline.transforms import upload
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


REACH = 3
"""Cells over which the blur goes to each side; beyond it weighs less than 1/800."""

_BLURRED_AT_ONCE = 2**18
"""Values of which there is a copy while they are blurred."""

_SPREAD = 1 / 3
"""Variance, in cells, that linear spreading and reading add together."""


@dataclass(frozen=True)
class Axis:
    """One axis of voxels on the lattice.

    Attributes:
        first: Voxel index that the axis begins with.
        num_voxels: From there on.
        cell_voxels: Width of a cell in voxels, not necessarily whole.
    """

    first: int
    num_voxels: int
    cell_voxels: float

    @property
    def first_cell(self) -> int:
        """The cell of the first voxel, counted from that of voxel 0."""
        return math.floor(self.first / self.cell_voxels)

    @property
    def num_cells(self) -> int:
        """Cell borders that the voxels spread to."""
        last = math.floor((self.first + self.num_voxels - 1) / self.cell_voxels)
        return last - self.first_cell + 2

    def places(self, device: torch.device, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the cell of each voxel from `first` on, and how far it lies into the cell."""
        voxels = torch.arange(self.first, self.first + self.num_voxels, dtype=torch.float64)
        position = voxels / self.cell_voxels
        cell = position.floor()
        cell, parts = cell - self.first_cell, position - cell
        return upload(cell.long(), device), upload(parts.to(dtype), device)


@dataclass(frozen=True)
class Lattice:
    """The cells over a box of voxels.

    Attributes:
        axes: Of position, along I, J, K.
        intensity_cells: Number of cell borders of each intensity channel; none for position only.
        device: Where its grids lie.
        dtype: Of its grids.
    """

    axes: tuple[Axis, Axis, Axis]
    intensity_cells: tuple[int, ...]
    device: torch.device
    dtype: torch.dtype = torch.float32

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of cells along each axis, those of intensity last."""
        return (*(axis.num_cells for axis in self.axes), *self.intensity_cells)

    @property
    def num_cells(self) -> int:
        """Of the whole lattice."""
        return math.prod(self.sizes)

    @cached_property
    def strides(self) -> tuple[int, ...]:
        """Cells from one to the next along each axis."""
        return tuple(math.prod(self.sizes[axis + 1 :]) for axis in range(len(self.sizes)))

    @cached_property
    def places(self) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
        """Cell of each voxel along I, J, K, times the stride, and how far it lies into the cell."""
        found = (axis.places(self.device, self.dtype) for axis in self.axes)
        return tuple((cell * s, part) for (cell, part), s in zip(found, self.strides, strict=False))

    def around(self, box: Sequence[tuple[int, int]]) -> "Lattice":
        """Return the part of the lattice that blurs into a box of voxels, on the same cells."""
        i, j, k = (_around(axis, ends) for axis, ends in zip(self.axes, box, strict=True))
        return Lattice((i, j, k), self.intensity_cells, self.device, self.dtype)


@dataclass(frozen=True)
class Slab:
    """Some planes of a volume.

    Attributes:
        first_plane: Index of the first along I, from the lattice's first voxel on.
        feature_MIJK: `(M, i, J, K)` intensities in cells.
        class_IJK: `(i, J, K)` class of each voxel.
        weight_IJK: What each voxel counts for; None: 1.
    """

    first_plane: int
    feature_MIJK: torch.Tensor
    class_IJK: torch.Tensor
    weight_IJK: torch.Tensor | None = None


class Scratch:
    """Memory for one grid at a time, since fresh memory costs more than the work on it."""

    def __init__(self) -> None:
        self._flat = torch.empty(0)

    def zeros(self, lattice: Lattice, num_columns: int) -> torch.Tensor:
        """Return an empty grid `(G, W)`; the one before it is lost."""
        number = lattice.num_cells * num_columns
        if len(self._flat) < number:
            self._flat = torch.empty(0)
            self._flat = torch.empty(number, dtype=lattice.dtype, device=lattice.device)
        return self._flat[:number].zero_().view(-1, num_columns)


def _around(axis: Axis, ends: tuple[int, int]) -> Axis:
    # One cell more than the blur reaches, since voxels spread to the border after theirs, too.
    first_cell = math.floor(ends[0] / axis.cell_voxels) - REACH - 1
    stop_cell = math.floor((ends[1] - 1) / axis.cell_voxels) + REACH + 2
    first = max(axis.first, math.ceil(first_cell * axis.cell_voxels))
    stop = min(axis.first + axis.num_voxels, math.ceil(stop_cell * axis.cell_voxels))
    return Axis(first, stop - first, axis.cell_voxels)


def blur(lattice: Lattice, grid_GW: torch.Tensor) -> None:
    """Blur a grid along each axis, in place."""
    weights = _taps()
    for axis, size in enumerate(lattice.sizes):
        grid_AXB = grid_GW.view(-1, size, lattice.strides[axis] * grid_GW.shape[1])
        # One of the two is short; cut along the other.
        cut = 0 if len(grid_AXB) > 1 else 2
        at_once = max(1, _BLURRED_AT_ONCE * grid_AXB.shape[cut] // grid_AXB.numel())
        for part in torch.split(grid_AXB, at_once, dim=cut):
            blurred = part * weights[0]
            for step, weight in enumerate(weights[1:], start=1):
                blurred[:, step:].add_(part[:, :-step], alpha=weight)
                blurred[:, :-step].add_(part[:, step:], alpha=weight)
            part.copy_(blurred)


def splat_ones(lattice: Lattice) -> torch.Tensor:
    """Return the grid `(G, 1)` of a lattice without intensity to which each voxel added one."""
    along = []
    for axis in lattice.axes:
        ones = torch.zeros(axis.num_cells, dtype=lattice.dtype, device=lattice.device)
        cell, parts = axis.places(lattice.device, lattice.dtype)
        ones.index_add_(0, cell, 1 - parts)
        ones.index_add_(0, cell + 1, parts)
        along.append(ones)
    i, j, k = along
    return torch.einsum("i,j,k->ijk", i, j, k).reshape(-1, 1)


def _taps() -> list[float]:
    """Return the weights of the blur for a cell itself and those up to `REACH` from it."""
    variance = 1 - _SPREAD
    return [math.exp(-(step**2) / (2 * variance)) for step in range(REACH + 1)]
