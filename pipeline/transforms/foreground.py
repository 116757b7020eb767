"""Where tissue may be: the box that the working grid covers, and the shadows that tissue throws.

Axes: I, J, K = voxel axes in RAS order.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.transforms.config import Preprocessing
from pipeline.transforms.placement import AxisMap, Box
from pipeline.volume import Grid

AIR_HU = -500.0
"""Above this a CT voxel is taken for something other than air."""

Shadow = npt.NDArray[np.bool_]
Shadows = tuple[Shadow, Shadow, Shadow]
"""Along I `(J, K)`, along J `(I, K)` and along K `(I, J)`: if anything is on or near that line."""


@dataclass(frozen=True)
class Foreground:
    """Everything that is not surrounding air (CT) or zero (MR), with a margin.

    Attributes:
        box: Around all of it, in RAS voxels. A volume in which nothing is found keeps its whole
            extent.
        shadows: Of it, on the study's grid in RAS order.
    """

    box: Box
    shadows: Shadows

    def on_working_grid(self, axes: tuple[AxisMap, AxisMap, AxisMap]) -> Shadows:
        """Return the shadows on the working grid: a voxel is in one if anything it covers is."""
        in_box = []
        for shadow, across in zip(self.shadows, _ACROSS, strict=True):
            for position, axis in enumerate(across):
                first, last = self.box[axis]
                shadow = shadow.take(range(first, last), axis=position)
                shadow = _any_between(shadow, *_covered(axes[axis]), position)
            in_box.append(shadow)
        i, j, k = in_box
        return i, j, k


_ACROSS = ((1, 2), (0, 2), (0, 1))
"""The two axes of the shadow along each axis."""


def find_foreground(
    channels: Sequence[npt.NDArray[np.floating[Any]]], ras: Grid, settings: Preprocessing
) -> Foreground:
    """Find what is not surrounding air (CT) or zero (MR).

    Only what surrounds all tissue is left out, never anything inside it: gas in a bowel has tissue
    before and behind it along every axis. The margin covers tissue as dark as air at the border
    (lung at the edge of a small field of view).

    Args:
        channels: Each `(I, J, K)` on `ras`; may be views of any memory order.
        ras: The study's grid in RAS order.
        settings: Say which channels are in Hounsfield units, and the margin.
    """
    shadows = _shadows(channels, [channel.hounsfield for channel in settings.channels])
    if not shadows[0].any():
        in_i, in_j, in_k = (np.ones_like(shadow) for shadow in shadows)
        r, a, s = ras.shape
        return Foreground(((0, r), (0, a), (0, s)), (in_i, in_j, in_k))
    margin = [math.ceil(settings.crop_margin_mm / spacing) for spacing in ras.spacing_mm]
    along_ij, along_k = shadows[2], shadows[0]
    i = _extent(along_ij.any(axis=1), margin[0])
    j = _extent(along_ij.any(axis=0), margin[1])
    k = _extent(along_k.any(axis=0), margin[2])
    widened = []
    for shadow, across in zip(shadows, _ACROSS, strict=True):
        for position, axis in enumerate(across):
            place = np.arange(ras.shape[axis])
            shadow = _any_between(shadow, place - margin[axis], place + margin[axis], position)
        widened.append(shadow)
    return Foreground((i, j, k), (widened[0], widened[1], widened[2]))


def _shadows(channels: Sequence[npt.NDArray[np.floating[Any]]], is_ct: Sequence[bool]) -> Shadows:
    """Look at one slice after the other, in the order of memory, so that no mask is held."""
    i, j, k = channels[0].shape
    shadows = np.zeros((j, k), bool), np.zeros((i, k), bool), np.zeros((i, j), bool)
    slowest = int(np.argmax(np.abs(channels[0].strides)))
    across = _ACROSS[slowest]
    for index in range(channels[0].shape[slowest]):
        found = np.zeros(shadows[slowest].shape, bool)
        for channel, ct in zip(channels, is_ct, strict=True):
            slice_IJ = np.moveaxis(channel, slowest, 0)[index]
            found |= slice_IJ > AIR_HU if ct else slice_IJ != 0
        shadows[slowest][found] = True
        for position, axis in enumerate(across):
            # The shadow along `axis` has this slice's line at `index` of the slowest axis.
            place: list[Any] = [slice(None), slice(None)]
            place[_ACROSS[axis].index(slowest)] = index
            shadows[axis][tuple(place)] = found.any(axis=position)
    return shadows


def _extent(line: npt.NDArray[Any] | np.bool_, margin: int) -> tuple[int, int]:
    found = np.flatnonzero(line)
    size = np.size(line)
    return max(int(found[0]) - margin, 0), min(int(found[-1]) + 1 + margin, size)


def _covered(axis: AxisMap) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First and last native voxel that each working voxel covers or is interpolated from."""
    positions = axis.native_positions().numpy()
    reach = max(axis.step, 1.0)
    first, last = np.floor(positions - reach), np.ceil(positions + reach)
    return first.astype(np.int64), last.astype(np.int64)


def _any_between(
    shadow: Shadow, first: npt.NDArray[np.int64], last: npt.NDArray[np.int64], axis: int
) -> Shadow:
    """Tell for each range of indices along an axis, both ends included, if it holds anything."""
    size = shadow.shape[axis]
    padding = [(1, 0) if position == axis else (0, 0) for position in range(2)]
    counts = np.pad(shadow.astype(np.int64), padding).cumsum(axis)
    above = counts.take(np.clip(last + 1, 0, size), axis)
    below = counts.take(np.clip(first, 0, size), axis)
    return np.asarray(above > below)
