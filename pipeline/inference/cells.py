"""The part of a volume's logits that windows still touch, and where its cells lie.

Axes: U, V, W = voxels along columns, rows and slabs.

The volume is cut into cells where windows begin: along the slowest axis (slabs) and the next one
(rows); a cell is as long as the volume along the third (columns). A cell is made when the first
window touches it. When the last one has, it is normalised, handed on and forgotten. With windows
that overlap by half, that is about half a window's height times the area across it, times outputs;
it does not grow with the length of the volume.

A cell begins with the last voxels of the cells before it, since interpolation needs both sides.

Axes: C = outputs; U, V, W = voxels along columns, rows and slabs.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from pipeline.inference.config import Activation
from pipeline.inference.windows import Order, Size, WindowGrid, activate, add_weighted, importance
from pipeline.transforms import ProbabilityBlock, upload
from pipeline.volume import Slices

Index = tuple[int, int]
"""Number of a cell's slab and of its row."""

Ends = tuple[int, int]


@dataclass(frozen=True)
class Part:
    """What of a window lies in a cell.

    Attributes:
        cell: Which one.
        in_window: Where in the window.
        in_cell: Where in the cell.
    """

    cell: Index
    in_window: Slices
    in_cell: Slices


@dataclass(frozen=True)
class CellLayout:
    """The cells of a volume.

    Attributes:
        grid: The windows.
        order: In which they come.
    """

    grid: WindowGrid
    order: Order

    @cached_property
    def rows(self) -> list[Ends]:
        """First and one-past-last voxel of the cells of each row."""
        return self.grid.segments(self.order.row)

    @cached_property
    def slabs(self) -> list[Ends]:
        """The same for each slab."""
        return self.grid.segments(self.order.slab)

    def size(self, index: Index) -> Size:
        """Return the voxels of a cell along U, V, W, without those of the cells before."""
        (v, to_v), (w, to_w) = self.rows[index[1]], self.slabs[index[0]]
        return self.grid.size[self.order.column], to_v - v, to_w - w

    def voxels_before(self, index: Index) -> Size:
        """Return how many voxels of the cells before it a cell begins with."""
        return 0, int(index[1] > 0), int(index[0] > 0)

    def start(self, index: Index) -> Size:
        """Return where a cell begins in the volume along I, J, K, with those."""
        n, m = index
        _, v, w = self.voxels_before(index)
        starts = {
            self.order.column: 0,
            self.order.row: self.rows[m][0] - v,
            self.order.slab: self.slabs[n][0] - w,
        }
        return starts[0], starts[1], starts[2]

    def touched(self, start: Size) -> Iterator[Part]:
        """Yield the cells that the window at `start` (I, J, K) touches."""
        u, v, w = (start[axis] for axis in self.order.axes)
        num_u, num_v, num_w = (self.grid.window[axis] for axis in self.order.axes)
        for (n, along_w), (m, along_v) in itertools.product(
            _overlaps(self.slabs, w, w + num_w), _overlaps(self.rows, v, v + num_v)
        ):
            in_window = slice(0, num_u), _shifted(along_v, v), _shifted(along_w, w)
            origin_v, origin_w = self.rows[m][0], self.slabs[n][0]
            in_cell = (
                slice(u, u + num_u),
                _shifted(along_v, origin_v),
                _shifted(along_w, origin_w),
            )
            yield Part((n, m), in_window, in_cell)

    def finished_by(self, slab: int, row: int) -> list[Index]:
        """Return the cells that a column of windows finishes, by its slab and row of windows."""
        slabs = self._finished(self.slabs, self.order.slab, slab)
        rows = self._finished(self.rows, self.order.row, row)
        return [(n, m) for m in rows for n in slabs]

    def _finished(self, segments: Sequence[Ends], axis: int, window: int) -> list[int]:
        last = self.grid.last_window
        return [number for number, ends in enumerate(segments) if last(axis, ends) == window]

    def followers(self, index: Index) -> list[tuple[Index, int]]:
        """Return the cells that begin with the last voxels of one, and on which axis of U, V, W."""
        n, m = index
        after = [((n, m + 1), 1)] if m + 1 < len(self.rows) else []
        return after + ([((n + 1, m), 2)] if n + 1 < len(self.slabs) else [])

    @property
    def voxels_of_largest(self) -> int:
        """Voxels of the largest cell, with those of the cells before."""
        cells = itertools.product(range(len(self.slabs)), range(len(self.rows)))
        return max(
            math.prod(map(sum, zip(self.size(cell), self.voxels_before(cell), strict=True)))
            for cell in cells
        )

    def num_alive(self, batch_size: int) -> int:
        """Return how many cells exist at the same time, at most, by going through the windows.

        Args:
            batch_size: Windows computed at once; their cells exist at once.
        """
        alive: set[Index] = set()
        pending: list[Size] = []
        waiting: list[Index] = []
        most = 0
        columns = list(self.order.stripes(self.grid))
        for number, (at, windows) in enumerate(columns, start=1):
            pending += windows
            waiting.append(at)
            while len(pending) >= batch_size or (pending and number == len(columns)):
                alive |= {
                    part.cell for start in pending[:batch_size] for part in self.touched(start)
                }
                pending = pending[batch_size:]
                most = max(most, len(alive))
                # All columns before those of the windows that still wait are finished.
                num_open = math.ceil(len(pending) / len(windows))
                for column in waiting[: len(waiting) - num_open]:
                    most = max(most, self._finish(column, alive))
                waiting = waiting[len(waiting) - num_open :]
        return most

    def _finish(self, column: Index, alive: set[Index]) -> int:
        """Take the cells that a column finishes out of those alive; return how many there were."""
        most = 0
        for index in self.finished_by(*column):
            alive |= {index, *(follower for follower, _ in self.followers(index))}
            most = max(most, len(alive))
            alive.remove(index)
        return most


def _overlaps(segments: Sequence[Ends], start: int, stop: int) -> list[tuple[int, Ends]]:
    """Return the number of each segment that a range touches, and the part of it."""
    parts = [(max(a, start), min(b, stop)) for a, b in segments]
    return [(number, (a, b)) for number, (a, b) in enumerate(parts) if a < b]


def _shifted(ends: Ends, origin: int) -> slice:
    return slice(ends[0] - origin, ends[1] - origin)


@dataclass
class _Cell:
    """Sums of weighted logits, and of weights.

    Attributes:
        buffer: What the values lie in.
        values_CUVW: The sums, with the voxels of the cells before.
        weight_UVW: Sums of the weights, without those.
    """

    buffer: torch.Tensor
    values_CUVW: torch.Tensor
    weight_UVW: torch.Tensor

    def own_values(self) -> torch.Tensor:
        """The values without those of the cells before, `(C, U, V, W)`."""
        _, v, w = self.weight_UVW.shape
        return self.values_CUVW[:, :, -v:, -w:]


class Cells:
    """Adds up windows and hands on what is finished.

    Args:
        layout: Where the cells lie.
        num_outputs: Of the network.
        activation: `softmax` where outputs exclude each other, `sigmoid` where they overlap.
        dtype: To store sums in. They are added up in float32 in either case; float16 takes half
            the memory, and its rounding is a fraction of that of a network computing in bfloat16.
        device: To store them on.
    """

    def __init__(
        self,
        layout: CellLayout,
        num_outputs: int,
        activation: Activation,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._layout = layout
        self._num_outputs = num_outputs
        self._activation = activation
        self._dtype = dtype
        self.device = device
        weight_IJK = upload(importance(layout.grid.window), device)
        self._weight_UVW = weight_IJK.permute(layout.order.axes).contiguous()
        self._cells: dict[Index, _Cell] = {}
        self._free: list[torch.Tensor] = []
        self._size = num_outputs * layout.voxels_of_largest

    def reserve(self, starts: Sequence[Size]) -> None:
        """Take the memory that adding windows will need."""
        for start in starts:
            for part in self._layout.touched(start):
                self._cell(part.cell)

    def add(self, logits_CIJK: torch.Tensor, start: Size) -> None:
        """Add a window's logits.

        Args:
            logits_CIJK: Of the window's size, of any floating type and memory order, on the
                device of the sums.
            start: The window's first voxel.
        """
        axes = self._layout.order.axes
        logits_CUVW = logits_CIJK.permute(0, *(1 + axis for axis in axes))
        for part in self._layout.touched(start):
            cell = self._cell(part.cell)
            weight_UVW = self._weight_UVW[part.in_window]
            cell.weight_UVW[part.in_cell].add_(weight_UVW)
            sums_CUVW = cell.own_values()[:, *part.in_cell]
            add_weighted(sums_CUVW, logits_CUVW[:, *part.in_window], weight_UVW)

    def take(self, index: Index) -> ProbabilityBlock:
        """Turn a finished cell into probabilities; they are good until it is dropped."""
        cell = self._cell(index)
        activate(cell.own_values(), cell.weight_UVW, self._activation)
        for follower, along in self._layout.followers(index):
            last = cell.values_CUVW.select(along + 1, -1)
            self._cell(follower).values_CUVW.select(along + 1, 0).copy_(last)
        back = (1 + place for place in self._layout.order.back())
        return ProbabilityBlock(cell.values_CUVW.permute(0, *back), self._layout.start(index))

    def drop(self, index: Index) -> None:
        """Forget a cell; another one will use its memory.

        On a GPU that is left to torch, which knows when nobody has the block any more.
        """
        buffer = self._cells.pop(index).buffer
        if not buffer.is_cuda:
            self._free.append(buffer)

    def _cell(self, index: Index) -> _Cell:
        if index not in self._cells:
            self._cells[index] = self._make(index)
        return self._cells[index]

    def _make(self, index: Index) -> _Cell:
        own = self._layout.size(index)
        before = self._layout.voxels_before(index)
        shape = self._num_outputs, *(n + more for n, more in zip(own, before, strict=True))
        if self._free:
            buffer = self._free.pop()
        else:
            buffer = torch.empty(self._size, dtype=self._dtype, device=self.device)
        values_CUVW = buffer[: math.prod(shape)].view(shape).zero_()
        weight_UVW = torch.zeros(own, device=self.device)
        return _Cell(buffer, values_CUVW, weight_UVW)
