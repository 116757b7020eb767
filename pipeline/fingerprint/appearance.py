"""What one volume looks like, in a few numbers, and how each spreads over a cohort.

Axes: C = channels, I, J, K = voxel axes of the file, R, A, S = the same in RAS order. A volume of
any size is measured on at most `(CUBE_SIZE * SAMPLES_PER_CELL)^3` voxels, spread evenly, and on
parts of its slices.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from pipeline.fingerprint.continuity import Continuity, SliceFault, measure_continuity
from pipeline.transforms.orientation import ras_grid, ras_view
from pipeline.transforms.spikes import Spikes, find_spikes
from pipeline.volume import Volume


class Spread(BaseModel):
    """Smallest, median and largest value of a number over the training cases."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lowest: float
    middle: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Describe some values, at least one."""
        lowest, middle, highest = np.quantile(np.asarray(values, np.float64), [0, 0.5, 1])
        return cls(
            lowest=_shortened(lowest), middle=_shortened(middle), highest=_shortened(highest)
        )

    def widened(self, slack: float, floor: float = 0.0) -> "Spread":
        """Return the spread with `slack` times its width, at least `floor`, added on each side."""
        more = max(slack * (self.highest - self.lowest), floor)
        return Spread(lowest=self.lowest - more, middle=self.middle, highest=self.highest + more)

    def holds(self, value: float) -> bool:
        """Tell whether a value lies within."""
        return self.lowest <= value <= self.highest


def _shortened(value: float) -> float:
    """Six digits: nobody reads more, and the fingerprint is kept as text."""
    return float(f"{value:.6g}")


CUBE_SIZE = 12
"""Cells along each axis of the picture of a volume."""

SAMPLES_PER_CELL = 4
"""Voxels along each axis of a cell that are looked at, where there are so many."""

AIR_HU = -300.0
"""Below this lie air and lung, in CT."""

BONE_HU = 300.0
"""Above this lie bone, metal and dense contrast agent, in CT."""

PADDING_SHARE = 0.01
PADDING_GAP = 0.3
"""Padding lies so far below all other values, as a share of their range."""

QUANTILES = (0.005, 0.05, 0.5, 0.95, 0.995)

_NUM_LEVELS = 33
_NUM_STEPS = 4096
_TINY = 1e-12

Triple = tuple[float, float, float]
Cube = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ChannelLook:
    """What one channel looks like.

    Attributes:
        lowest: Smallest value of all voxels, and `highest` the largest.
        quantiles: At `QUANTILES`, over the voxels that were looked at, like all that follow. Here,
            in the slices and in the picture, padding counts as the second smallest value, so that
            it hides nothing.
        second_lowest: Smallest value above the smallest.
        share_lowest: Share that has the smallest value, and `share_highest` the largest.
        share_air: Share below `AIR_HU`, and `share_bone` above `BONE_HU`; for CT.
        roughness: Along R, A, S: mean difference of neighbours over that of voxels drawn at
            random. 1 for noise, near 0 for smooth images.
        slices: How the slices follow on one another, along R, A, S.
        cube_RAS: Picture of the volume's whole box in `CUBE_SIZE` cells along each axis: the mean
            rank of the voxels in each, from 0 to 1. Ranks do not depend on the intensity scale.
        spikes: A few voxels far beyond all others, if there are any. In the quantiles, the
            roughness, the slices and the picture they count as the nearest of the others, so that
            they hide nothing.
    """

    lowest: float
    highest: float
    quantiles: tuple[float, float, float, float, float]
    second_lowest: float
    share_lowest: float
    share_highest: float
    share_air: float
    share_bone: float
    roughness: Triple
    slices: tuple[Continuity, Continuity, Continuity]
    cube_RAS: Cube
    spikes: Spikes | None = None

    @property
    def middle(self) -> float:
        """The median."""
        return self.quantiles[2]

    @property
    def spread(self) -> float:
        """From the 0.5th to the 99.5th percentile."""
        return self.quantiles[4] - self.quantiles[0]

    @property
    def offset(self) -> float:
        """The 0.5th percentile relative to the spread: 0 where the background is 0."""
        return self.quantiles[0] / max(self.spread, _TINY)

    @property
    def gap(self) -> float:
        """How far the smallest value lies below the others, by their range; large for padding."""
        return (self.second_lowest - self.lowest) / max(self.highest - self.second_lowest, _TINY)

    @property
    def texture(self) -> Triple:
        """Logarithm of the roughness along each axis, relative to the mean of the three."""
        r, a, s = np.log(np.maximum(self.roughness, _TINY) / max(np.mean(self.roughness), _TINY))
        return float(r), float(a), float(s)


@dataclass(frozen=True)
class Look:
    """What one volume looks like.

    Attributes:
        spacing_mm: Along R, A, S.
        size_mm: Shape times spacing, along R, A, S.
        shear_degrees: Largest deviation of the angle between two voxel axes from a right angle.
        channels: In order.
    """

    spacing_mm: Triple
    size_mm: Triple
    shear_degrees: float
    channels: tuple[ChannelLook, ...]

    @property
    def roughness(self) -> float:
        """Of the roughest axis and channel."""
        return max(max(channel.roughness) for channel in self.channels)

    @property
    def largest_jump(self) -> float:
        """Of the axis and channel with the largest."""
        return max(each.largest_jump for channel in self.channels for each in channel.slices)

    def share_of_slices(self, kind: SliceFault) -> float:
        """Share of slices that are empty, doubled or made up, of the worst axis and channel."""
        return max(
            len(each.faults(kind)) / each.num_slices
            for channel in self.channels
            for each in channel.slices
        )


def look_at(volume: Volume) -> Look:
    """Measure a volume."""
    ras = ras_grid(volume.grid)
    directions = ras.affine[:3, :3] / np.linalg.norm(ras.affine[:3, :3], axis=0)
    cosine = float(np.abs(directions.T @ directions - np.eye(3)).max())
    r, a, s = (n * spacing for n, spacing in zip(ras.shape, ras.spacing_mm, strict=True))
    return Look(
        spacing_mm=ras.spacing_mm,
        size_mm=(r, a, s),
        shear_degrees=float(np.degrees(np.arcsin(min(cosine, 1.0)))),
        channels=tuple(_look_at(ras_view(each, volume.affine)) for each in volume.data_CIJK),
    )


def _look_at(channel_RAS: npt.NDArray[np.floating[Any]]) -> ChannelLook:
    sample = _sample(channel_RAS)
    ordered = np.sort(sample, axis=None)
    lowest, highest = float(channel_RAS.min()), float(channel_RAS.max())
    num = len(ordered)
    num_lowest = int(np.searchsorted(ordered, lowest, "right"))
    second = float(ordered[min(num_lowest, num - 1)])
    floor = second if is_padding(num_lowest / num, second - lowest, highest - second) else lowest
    spikes = find_spikes(channel_RAS, ordered, lowest, highest)
    floor, ceiling = (floor, np.inf) if spikes is None else (max(floor, spikes.low), spikes.high)
    share_air = float(np.searchsorted(ordered, AIR_HU) / num)
    ordered = np.clip(ordered, floor, ceiling)
    random_step = _mean_difference(ordered)
    r, a, s = (measure_continuity(channel_RAS, axis, floor, ceiling) for axis in range(3))
    along = [each.step / random_step if random_step > 0 else 0.0 for each in (r, a, s)]
    q = [float(ordered[round(share * (num - 1))]) for share in QUANTILES]
    return ChannelLook(
        lowest=lowest,
        highest=highest,
        quantiles=(q[0], q[1], q[2], q[3], q[4]),
        second_lowest=second,
        share_lowest=num_lowest / num,
        share_highest=float(1 - np.searchsorted(ordered, highest, "left") / num),
        share_air=share_air,
        share_bone=float(1 - np.searchsorted(ordered, BONE_HU, "right") / num),
        roughness=(along[0], along[1], along[2]),
        slices=(r, a, s),
        cube_RAS=_cube(sample, ordered),
        spikes=spikes,
    )


def is_padding(share: float, gap: float, rest: float) -> bool:
    """Tell whether the smallest value stands for "nothing was measured here".

    Args:
        share: Of the voxels that have it.
        gap: From it to the second smallest value.
        rest: From that to the largest value.
    """
    return share >= PADDING_SHARE and gap > PADDING_GAP * rest > 0


def _sample(channel_RAS: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
    """Take voxels evenly from the whole box: the same number for each cell, along each axis."""
    indices = []
    for size in channel_RAS.shape:
        num = CUBE_SIZE * min(SAMPLES_PER_CELL, max(1, size // CUBE_SIZE))
        indices.append(((np.arange(num) + 0.5) * size / num).astype(int))
    return np.asarray(channel_RAS[np.ix_(*indices)], np.float32)


def _mean_difference(ordered: npt.NDArray[np.float32]) -> float:
    """Mean difference between two values drawn at random from sorted ones (Gini's)."""
    num = len(ordered)
    weights = np.arange(1 - num, num, 2, dtype=np.float64)
    weights *= ordered
    # No dot product: BLAS would wake a thread on each core, against the network that runs there.
    return float(2 * weights.sum() / num**2)


def _cube(sample: npt.NDArray[np.float32], ordered: npt.NDArray[np.float32]) -> Cube:
    """Average the ranks of the voxels in each cell; equal voxels share their mean rank."""
    levels = np.linspace(0, 1, _NUM_LEVELS)
    at = ordered[np.round(levels * (len(ordered) - 1)).astype(int)].astype(np.float64)
    values, first, counts = np.unique(at, return_index=True, return_counts=True)
    ranks = (levels[first] + levels[first + counts - 1]) / 2
    # A table of ranks is much faster than to interpolate for each voxel.
    low, high = ordered[len(ordered) // 200], ordered[-1 - len(ordered) // 200]
    table = np.interp(np.linspace(low, high, _NUM_STEPS), values, ranks).astype(np.float32)
    scaled = (sample - low) * ((_NUM_STEPS - 1) / max(float(high - low), _TINY))
    ranked = table[np.clip(scaled, 0, _NUM_STEPS - 1).astype(np.intp)]
    i, j, k = (size // CUBE_SIZE for size in sample.shape)
    cells = ranked.reshape(CUBE_SIZE, i, CUBE_SIZE, j, CUBE_SIZE, k)
    return np.asarray(cells.mean(axis=(1, 3, 5)), np.float32)
