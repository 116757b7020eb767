"""What a conditional random field changed of a case, as the few voxels that differ.

Axes: I, J, K = voxel axes; N counts changed voxels.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.postprocessing import change_shares

Labels = npt.NDArray[np.unsignedinteger]


@dataclass(frozen=True)
class Change:
    """The difference of two label maps.

    Attributes:
        voxel_N: Indices into the flattened `(I, J, K)` array, in C order, ascending.
        old_N: Labels before.
        new_N: Labels after, different from those before.
    """

    voxel_N: npt.NDArray[np.int64]
    old_N: Labels
    new_N: Labels


def difference(before_IJK: Labels, after_IJK: Labels) -> Change:
    """Return what differs between two label maps of the same shape."""
    before, after = before_IJK.reshape(-1), after_IJK.reshape(-1)
    voxel_N = np.flatnonzero(before != after)
    return Change(voxel_N.astype(np.int64), before[voxel_N], after[voxel_N])


def apply_change(labels_IJK: Labels, change: Change) -> Labels:
    """Return a copy of the label map that the change was taken from, changed."""
    changed = labels_IJK.copy()
    changed.reshape(-1)[change.voxel_N] = change.new_N
    return changed


def gate(change: Change, accepted: Collection[int]) -> Change:
    """Keep what happens among background and accepted labels.

    A label that is not accepted so neither gains nor loses a voxel.

    Args:
        change: Of a conditional random field.
        accepted: Values of the labels that may change.
    """
    may_change = np.array([0, *accepted])
    keep = np.isin(change.old_N, may_change) & np.isin(change.new_N, may_change)
    return Change(change.voxel_N[keep], change.old_N[keep], change.new_N[keep])


def largest_shares(
    changes: Iterable[tuple[Labels, Labels]], labels: Mapping[str, int]
) -> dict[str, float]:
    """Return the largest `change_shares` of each label, over the cases that have it before.

    Args:
        changes: Label map before and after, case by case.
        labels: Name and value of each.
    """
    largest: dict[str, float] = {}
    for before_IJK, after_IJK in changes:
        there = {name: value for name, value in labels.items() if (before_IJK == value).any()}
        for name, share in change_shares(before_IJK, after_IJK, there).items():
            largest[name] = max(largest.get(name, 0.0), share)
    return largest


def crop_changes(
    changes: Sequence[Change], shape: Sequence[int], box: tuple[slice, ...]
) -> tuple[Change, ...]:
    """Renumber the voxels of changes as those of a box that holds them all.

    Args:
        changes: Of a volume.
        shape: Of that volume.
        box: Slices of it.
    """
    size = tuple(part.stop - part.start for part in box)
    cropped = []
    for change in changes:
        places = np.unravel_index(change.voxel_N, tuple(shape))
        inside = tuple(place - part.start for place, part in zip(places, box, strict=True))
        voxel_N = np.ravel_multi_index(inside, size).astype(np.int64)
        cropped.append(Change(voxel_N, change.old_N, change.new_N))
    return tuple(cropped)
