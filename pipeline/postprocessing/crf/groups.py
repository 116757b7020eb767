"""How classes count against each other, and which are filtered together.

Axes: S = slots of a voxel, one for each class but the background, and perhaps empty ones.

The work and the memory of a class then grow with the box around it, not with the volume.

Axes: as in `lattice.py`, and N = voxels of the band, S = slots of a voxel, R = voxels of the band
that may be of one of a group's classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pipeline.postprocessing.crf.band import Band, num_columns


@dataclass(frozen=True)
class Compatibility:
    """Costs of classes beside each other.

    Attributes:
        cost_CC: What it costs to be of the row's class beside the column's; None: 1 for different
            classes, the Potts model.
    """

    cost_CC: Sequence[Sequence[float]] | None = None

    def against_background(self, like_NS: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what turns messages of the other classes into log-odds against the background.

        The log-odds of class c are, with messages m of all classes, minus the sum over classes l of
        (cost[c, l] - cost[0, l]) m[l]; and the background's message is the sum of all messages,
        less those of the others.

        Args:
            like_NS: `(N, S)`, for the number of slots, device and type.

        Returns:
            `(S, S)` factors of the messages, and `(S,)` factors of the sum of all.
        """
        num_slots = like_NS.shape[1]
        cost_CC = 1 - torch.eye(num_slots + 1, dtype=torch.float64)
        if self.cost_CC is not None:
            number = len(self.cost_CC)
            cost_CC[:number, :number] = torch.tensor(self.cost_CC, dtype=torch.float64)
        factor_SC = cost_CC[0] - cost_CC[1:]
        others_SS = factor_SC[:, 1:] - factor_SC[:, :1]
        return others_SS.to(like_NS), factor_SC[:, 0].to(like_NS)


Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""First voxel and the one after the last, along I, J, K."""

_AT_ONCE = 2**20
"""Voxels that are looked at together."""


@dataclass(frozen=True)
class Group:
    """Classes that share a grid, a column each.

    Attributes:
        classes: Class indices, in the order of the columns.
        width: Columns of the grid; those beyond the classes stay empty.
        box: Around the voxels that take part.
        row_R: Those voxels; None: all of the band, and the slots are the columns.
        slot_RW: `(R, W)` which of the voxel's slots belongs to the column; S where none does.
    """

    classes: tuple[int, ...]
    width: int
    box: Box
    row_R: torch.Tensor | None = None
    slot_RW: torch.Tensor | None = None

    def read(self, values_NS: torch.Tensor) -> torch.Tensor:
        """Return the `(R, W)` columns of slots; 0 where a voxel has no slot for the class."""
        if self.row_R is None or self.slot_RW is None:
            return values_NS
        columns_RW = values_NS.new_empty(len(self.row_R), self.width)
        for start in range(0, len(self.row_R), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            slots_RS = torch.nn.functional.pad(values_NS[self.row_R[part]], (0, 1))
            columns_RW[part] = slots_RS.gather(1, self.slot_RW[part].long())
        return columns_RW

    def add(self, columns_RW: torch.Tensor, values_NS: torch.Tensor) -> None:
        """Add columns to the slots that `read` reads."""
        if self.row_R is None or self.slot_RW is None:
            values_NS += columns_RW
            return
        for start in range(0, len(self.row_R), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            row_R = self.row_R[part]
            slots_RS = torch.nn.functional.pad(values_NS[row_R], (0, 1))
            slots_RS.scatter_add_(1, self.slot_RW[part].long(), columns_RW[part])
            values_NS[row_R] = slots_RS[:, :-1]


def group_all(num_classes: int, width: int, shape: Sequence[int]) -> list[Group]:
    """Return the one group of a band whose voxels have a slot for each class but the background.

    The messages of the background are what those of the others leave of all messages.
    """
    i, j, k = ((0, size) for size in shape)
    return [Group(tuple(range(1, num_classes)), width, (i, j, k))]


def group_near(
    band: Band, index_N3: torch.Tensor, class_order: Sequence[int], width: int
) -> list[Group]:
    """Group the classes of a band whose voxels have slots for only some of them.

    Args:
        band: With the class of each slot.
        index_N3: Its voxels along I, J, K.
        class_order: All classes but the background, neighbours next to each other.
        width: Most classes of a group.
    """
    parts = [(0,), *(tuple(class_order[a : a + width]) for a in range(0, len(class_order), width))]
    groups = (_group_of(band, index_N3, classes, len(class_order) + 1) for classes in parts)
    return [group for group in groups if group is not None]


def _group_of(
    band: Band, index_N3: torch.Tensor, classes: tuple[int, ...], num_classes: int
) -> Group | None:
    class_NS = band.class_NS
    assert class_NS is not None
    number, num_slots = class_NS.shape
    width = num_columns(len(classes))
    # The last entry is that of NO_CLASS; what has no column goes to one more.
    column_C = torch.full((num_classes + 1,), width, device=class_NS.device)
    column_C[list(classes)] = torch.arange(len(classes), device=class_NS.device)
    rows, slots = [], []
    for start in range(0, number, _AT_ONCE):
        part_NS = class_NS[start : start + _AT_ONCE]
        slot_NW = part_NS.new_full((len(part_NS), width + 1), num_slots, dtype=torch.int8)
        column_NS = column_C[part_NS.long()]
        slot_S = torch.arange(num_slots, dtype=torch.int8, device=class_NS.device)
        slot_NW.scatter_(1, column_NS, slot_S.expand_as(column_NS))
        row_R = (column_NS < width).any(dim=1).nonzero().view(-1)
        rows.append((row_R + start).int())
        slots.append(slot_NW[row_R, :width])
    row_R = torch.cat(rows)
    if not len(row_R):
        return None
    index_R3 = index_N3[row_R]
    ends = zip(index_R3.amin(dim=0).tolist(), (index_R3.amax(dim=0) + 1).tolist(), strict=True)
    i, j, k = ends
    return Group(classes, width, (i, j, k), row_R, torch.cat(slots))
