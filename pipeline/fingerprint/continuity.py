"""Whether the slices of a volume follow on one another: none missing, doubled, empty or made up.

Axes: I, J, K = voxel axes; N = slices along one of them. Every slice is looked at, but of large
ones only some voxels.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

VOXELS_ACROSS = 24
"""Of a slice, at least that many are looked at along each of its axes, and less than twice that."""

MIN_SLICES = 8
"""Along shorter axes there is too little to compare a slice with."""

MADE_UP_SHARE = 0.1
"""A slice that differs from the mean of its neighbours by less than this share of how much it
differs from each of them was interpolated: measured noise does not cancel."""

SMOOTH_SHARE = 0.3
"""And by less than this share of what is usual in the volume."""

LOST_SHARE = 0.5
"""An empty slice was lost if one beside it holds at least this share of what slices hold; between
two legs in a background of zeros, the body tapers off towards the empty ones."""

SliceFault = Literal["empty", "doubled", "made_up"]

Image = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Continuity:
    """How the slices along one axis of a volume follow on one another.

    Attributes:
        step: Mean difference between neighbouring slices, in the volume's own unit.
        num_slices: Along the axis.
        empty: Indices of slices that hold a single value where the body goes on at their side.
        doubled: Indices of slices that equal the one before them, and are not empty.
        made_up: Indices of slices that are the mean of their neighbours.
        largest_jump: Largest difference between two neighbours, relative to the largest of the
            four around it; 0 if the axis is too short.
        jump_at: Index of the slice after that jump.
    """

    step: float
    num_slices: int
    empty: tuple[int, ...]
    doubled: tuple[int, ...]
    made_up: tuple[int, ...]
    largest_jump: float
    jump_at: int

    def faults(self, kind: SliceFault) -> tuple[int, ...]:
        """Return the indices of the slices with a fault."""
        return {"empty": self.empty, "doubled": self.doubled, "made_up": self.made_up}[kind]


def measure_continuity(
    channel_IJK: Image, axis: int, floor: float = -np.inf, ceiling: float = np.inf
) -> Continuity:
    """Compare the slices of a channel along one axis with their neighbours.

    Args:
        channel_IJK: The voxels.
        axis: Along which the slices are stacked.
        floor: Smaller values count as this one; where padding begins is no step in the anatomy.
        ceiling: Larger values count as this one.
    """
    whole_NIJ = np.moveaxis(channel_IJK, axis, 0)
    strides = [max(1, size // VOXELS_ACROSS) for size in whole_NIJ.shape[1:]]
    some_NIJ = whole_NIJ[:, :: strides[0], :: strides[1]]
    slices = np.clip(some_NIJ, floor, ceiling).reshape(len(whole_NIJ), -1)
    steps = _mean_distance(slices[1:], slices[:-1])
    step = float(steps.mean()) if len(steps) else 0.0
    if len(slices) < MIN_SLICES:
        return Continuity(step, len(slices), (), (), (), 0.0, 0)
    empty = _empty(whole_NIJ, slices)
    is_live = ~empty
    pairs = is_live[1:] & is_live[:-1]
    candidates = np.flatnonzero((steps == 0) & pairs) + 1
    doubled = [int(n) for n in candidates if np.array_equal(whole_NIJ[n], whole_NIJ[n - 1])]
    jump, jump_at = _largest_jump(np.where(pairs, steps, 0))
    return Continuity(
        step=step,
        num_slices=len(slices),
        empty=_lost(slices, empty),
        doubled=tuple(doubled),
        made_up=_made_up(slices, steps),
        largest_jump=jump,
        jump_at=jump_at,
    )


def _mean_distance(a: Image, b: Image) -> npt.NDArray[np.float64]:
    distance = np.subtract(a, b)
    np.abs(distance, out=distance)
    return np.asarray(distance.mean(axis=1), np.float64)


def _empty(whole_NIJ: Image, slices: Image) -> npt.NDArray[np.bool_]:
    """Tell which slices hold a single value; the whole slice is asked only where a part does."""
    empty = slices.min(axis=1) == slices.max(axis=1)
    for n in np.flatnonzero(empty):
        empty[n] = whole_NIJ[n].min() == whole_NIJ[n].max()
    return np.asarray(empty)


def _lost(slices: Image, empty: npt.NDArray[np.bool_]) -> tuple[int, ...]:
    """Tell which of the empty slices are no gap between parts of the body, nor at an end."""
    live = np.flatnonzero(~empty)
    lost = []
    for n in np.flatnonzero(empty):
        after = int(np.searchsorted(live, n))
        if 0 < after < len(live):
            content = _mean_distance(slices[live], slices[n, :1])
            beside = content[after - 1 : after + 1].max()
            if beside >= LOST_SHARE * np.median(content):
                lost.append(int(n))
    return tuple(lost)


def _largest_jump(steps: npt.NDArray[np.float64]) -> tuple[float, int]:
    """Find the step that stands out most from the two before and the two after it.

    Steps of 0 are those of empty and doubled slices: neither they nor the steps beside them count.
    """
    around = np.stack([steps[:-4], steps[1:-3], steps[3:-1], steps[4:]])
    counts = (around > 0).all(axis=0)
    if not counts.any():
        return 0.0, 0
    ratios = np.where(counts, steps[2:-2] / np.maximum(around.max(axis=0), 1e-30), 0)
    largest = int(ratios.argmax())
    return float(ratios[largest]), largest + 3


def _made_up(slices: Image, steps: npt.NDArray[np.float64]) -> tuple[int, ...]:
    bend = _mean_distance(slices[1:-1], (slices[2:] + slices[:-2]) / 2)
    moves = (steps[1:] > 0) & (steps[:-1] > 0)
    if not moves.any():
        return ()
    straight = bend < MADE_UP_SHARE * np.minimum(steps[1:], steps[:-1])
    # Neither smooth parts nor the rounding of small differences count.
    straight &= bend < SMOOTH_SHARE * np.quantile(bend[moves], 0.75)
    return tuple(int(n) + 1 for n in np.flatnonzero(moves & straight))
