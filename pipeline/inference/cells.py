"""The part of a volume's logits that windows still touch, and no more of it.

The volume is cut into cells where windows begin: along the slowest axis (slabs) and the next one
(rows); a cell is as long as the volume along the third (columns). A cell is made when the first
window touches it. When the last one has, it is normalised, handed on and forgotten. With windows
that overlap by half, that is about half a window's height times the area across it, times outputs;
it does not grow with the length of the volume.

A cell begins with the last voxels of the cells before it, since interpolation needs both sides.

Axes: C = outputs; U, V, W = voxels along columns, rows and slabs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pipeline.inference.blending import activate, add_weighted
from pipeline.inference.cell_layout import CellLayout, Index
from pipeline.inference.config import Activation
from pipeline.inference.windows import Size, importance
from pipeline.transforms import ProbabilityBlock, upload


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
