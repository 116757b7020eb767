"""Where windows lie in a volume, and how they are blended where they overlap.

Axes: C = outputs; U, V, W = voxels along columns, rows and slabs.

Axes: I, J, K = voxel axes in RAS order.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from pipeline.inference.config import Activation
from pipeline.transforms import Shadows

CHUNK_VALUES = {"cpu": 2**19, "cuda": 2**24}
"""Logits that are worked on at once: what one core's cache holds; what takes a GPU longer than it
takes the host to ask for it, in a few copies of 64 MiB."""


def add_weighted(
    sums_CUVW: torch.Tensor, logits_CUVW: torch.Tensor, weight_UVW: torch.Tensor
) -> None:
    """Add weighted logits to sums, in float32, whatever both are stored in.

    Args:
        sums_CUVW: Changed in place.
        logits_CUVW: Of a window, or the part of it that lies in the cell.
        weight_UVW: Of each voxel.
    """
    for sums, logits, weight in _planes(sums_CUVW, logits_CUVW, weight_UVW):
        if sums.dtype == torch.float32:
            sums.addcmul_(logits.float(), weight)
        else:
            sums.copy_(torch.addcmul(sums.float(), logits.float(), weight))


def activate(sums_CUVW: torch.Tensor, weight_UVW: torch.Tensor, activation: Activation) -> None:
    """Turn sums of weighted logits into probabilities, in place.

    Where no window was, background is certain, or every region absent.

    Args:
        sums_CUVW: Sums of weighted logits.
        weight_UVW: Sums of the weights.
        activation: `softmax` where outputs exclude each other, `sigmoid` where they overlap.
    """
    for values, _, weight in _planes(sums_CUVW, sums_CUVW, weight_UVW):
        is_covered = weight > 0
        logits = values.float() / torch.where(is_covered, weight, 1)
        probability = logits.softmax(dim=0) if activation == "softmax" else logits.sigmoid()
        # Asking a GPU would wait for it.
        if values.is_cuda or not is_covered.all():
            probability.masked_fill_(~is_covered, 0)
            if activation == "softmax":
                probability[0].masked_fill_(~is_covered, 1)
        values.copy_(probability)


def _planes(
    first_CUVW: torch.Tensor, second_CUVW: torch.Tensor, weight_UVW: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Cut across columns, into parts of about `CHUNK_VALUES`."""
    at_once = CHUNK_VALUES[first_CUVW.device.type]
    num_columns = first_CUVW.shape[1]
    values_per_column = first_CUVW.numel() // num_columns
    edge = max(1, at_once // max(1, values_per_column))
    return zip(
        torch.split(first_CUVW, edge, dim=1),
        torch.split(second_CUVW, edge, dim=1),
        torch.split(weight_UVW, edge, dim=0),
        strict=True,
    )


Size = tuple[int, int, int]


def importance(window: Size) -> torch.Tensor:
    """Return how much each voxel of a window counts where windows overlap, as float32.

    A Gaussian with a standard deviation of an eighth of the window, as MONAI's sliding window has
    it: voxels at a window's border see little around them.

    Source:
        Isensee et al., Nature Methods 18, 2021, doi:10.1038/s41592-020-01008-z.
    """
    from monai.data.utils import compute_importance_map

    weights: torch.Tensor = compute_importance_map(window, mode="gaussian", sigma_scale=0.125)
    return weights


@dataclass(frozen=True)
class WindowGrid:
    """Windows over a volume: every combination of one start along each axis.

    Attributes:
        size: Of the volume; no axis is shorter than the window.
        window: Size of each window.
        steps: From one window to the next along each axis.
        starts: First voxel of the windows along each axis, ascending.
    """

    size: Size
    window: Size
    steps: Size
    starts: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

    @classmethod
    def lay(cls, size: Size, window: Size, overlap: float) -> "WindowGrid":
        """Lay windows over a volume, each beginning a step after the one before.

        The last one along an axis ends with the volume. A step is `1 - overlap` of the window,
        rounded down, as in MONAI.
        """
        u, v, w = (max(1, int(edge * (1 - overlap))) for edge in window)
        steps = u, v, w
        i, j, k = (_starts(*axis) for axis in zip(size, window, steps, strict=True))
        return cls(size, window, steps, (i, j, k))

    @property
    def num_windows(self) -> int:
        """Number of all windows."""
        return math.prod(len(starts) for starts in self.starts)

    def segments(self, axis: int) -> list[tuple[int, int]]:
        """Cut an axis where windows begin, so that what lies between two cuts is done with at once.

        What follows the last start is cut into steps too, and slivers join what follows them, so
        that all segments take about the same memory.
        """
        starts, size = self.starts[axis], self.size[axis]
        if len(starts) == 1:
            return [(0, size)]
        step = self.steps[axis]
        cuts = [0]
        for cut in [*starts[1:], *range(starts[-1] + step, size, step)]:
            if 2 * (cut - cuts[-1]) >= step and 2 * (size - cut) >= step:
                cuts.append(cut)
        return list(itertools.pairwise([*cuts, size]))

    def last_window(self, axis: int, segment: tuple[int, int]) -> int:
        """Return the number of the last start along an axis whose window touches a segment."""
        return sum(start < segment[1] for start in self.starts[axis]) - 1

    def may_hold_tissue(self, start: Size, shadows: Shadows) -> bool:
        """Tell whether a window may hold anything but surrounding air.

        It holds none if along some axis it lies outside the shadow of all there is. Gas and lung
        inside a body lie in its shadow along every axis, so they are never left out.
        """
        i, j, k = (slice(s, s + n) for s, n in zip(start, self.window, strict=True))
        along_i, along_j, along_k = shadows
        return bool(along_i[j, k].any() and along_j[i, k].any() and along_k[i, j].any())


def _starts(size: int, window: int, step: int) -> tuple[int, ...]:
    if size <= window:
        return (0,)
    number = math.ceil((size - window) / step) + 1
    return tuple(min(index * step, size - window) for index in range(number))


@dataclass(frozen=True)
class Order:
    """In which order the axes are gone through: columns of windows, rows of columns, slabs of rows.

    The longest axis goes slowest: what is held grows with the area across it.

    Attributes:
        column: Axis along which windows follow each other.
        row: Axis along which columns do.
        slab: Axis along which layers of rows do.
    """

    column: int
    row: int
    slab: int

    @classmethod
    def of(cls, size: Sequence[int]) -> "Order":
        """Return the order for a volume of this size."""
        column, row, slab = sorted(range(3), key=lambda axis: size[axis])
        return cls(column, row, slab)

    @property
    def axes(self) -> Size:
        """The axes, fastest first."""
        return self.column, self.row, self.slab

    def back(self) -> Size:
        """Return where I, J, K stand in this order."""
        i, j, k = (self.axes.index(axis) for axis in range(3))
        return i, j, k

    def stripes(self, grid: WindowGrid) -> Iterator[tuple[tuple[int, int], list[Size]]]:
        """Yield the columns of windows in turn.

        Yields:
            The number of the slab and of the row, and the windows' starts along I, J, K.
        """
        slabs, rows = grid.starts[self.slab], grid.starts[self.row]
        for (n, slab), (m, row) in itertools.product(enumerate(slabs), enumerate(rows)):
            windows = []
            for column in grid.starts[self.column]:
                by_axis = {self.column: column, self.row: row, self.slab: slab}
                windows.append((by_axis[0], by_axis[1], by_axis[2]))
            yield (n, m), windows
