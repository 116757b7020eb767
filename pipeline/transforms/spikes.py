"""A few voxels far beyond all others: dead or hot detector elements, and faults of conversion.

One such voxel of 1e6 among 8000 of some hundred makes a standard deviation that is its own, and
leaves a z-score nothing of the contrast.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FAR = 5.0
"""In widths of what lies between the 0.5th and the 99.5th percentile, beyond these."""

MOST_SHARE = 0.005
"""What more voxels share is no spike, but a bright part of the body."""

INFLATION = 1.5
"""Times the standard deviation of the other voxels, from which that of all is spoilt."""


@dataclass(frozen=True)
class Spikes:
    """The voxels of a channel that spoil its standard deviation.

    Attributes:
        num: How many there are.
        extreme: The value of them that is furthest from all others.
        low: From here the other values go, nearly all of them; 0.05th percentile of the volume.
        high: To here; 99.95th percentile.
        inflation: The standard deviation with them over that without.
    """

    num: int
    extreme: float
    low: float
    high: float
    inflation: float


def find_spikes(
    channel: npt.NDArray[np.floating[Any]],
    ordered: npt.NDArray[np.float32],
    lowest: float,
    highest: float,
) -> Spikes | None:
    """Find voxels far beyond all others, if they are few and spoil the standard deviation.

    Args:
        channel: All voxels, in any order.
        ordered: Some of them, sorted; taken evenly from the volume.
        lowest: Smallest value of all voxels.
        highest: Largest.
    """
    last = len(ordered) - 1
    low, high = (float(ordered[round(share * last)]) for share in (0.005, 0.995))
    reach = FAR * (high - low)
    if reach <= 0 or (lowest >= low - reach and highest <= high + reach):
        return None
    far = channel[(channel < low - reach) | (channel > high + reach)].astype(np.float64)
    share = len(far) / channel.size
    others = ordered[(ordered >= low - reach) & (ordered <= high + reach)].astype(np.float64)
    variance = float(others.var())
    beyond = float(np.mean((far - others.mean()) ** 2)) * share
    inflation = math.sqrt(1 + beyond / variance) if variance > 0 else 1.0
    if share > MOST_SHARE or inflation < INFLATION:
        return None
    low, high = (float(each) for each in np.quantile(others, [0.0005, 0.9995]))
    return Spikes(
        num=len(far),
        extreme=highest if highest - high > low - lowest else lowest,
        low=low,
        high=high,
        inflation=inflation,
    )
