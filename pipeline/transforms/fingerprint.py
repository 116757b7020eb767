"""What the training cases look like, and the preprocessing that follows from it."""

from collections.abc import Iterable, Sequence

import nibabel as nib
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from pipeline.manifest import Channel
from pipeline.transforms.config import ChannelNormalisation, Preprocessing, PreprocessingConfig
from pipeline.volume import Grid, LabelMap, Volume

SAMPLES_PER_CASE = 10_000
"""Foreground voxels drawn from each case for the intensity statistics."""


class ChannelStatistics(BaseModel):
    """Intensities of one channel over the foreground voxels of all training cases."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    percentile_00_5: float
    percentile_99_5: float
    mean: float
    std: float


class Fingerprint(BaseModel):
    """What the training cases look like; stored in the model, to compare new studies with.

    Attributes:
        num_cases: Number of training cases.
        spacing_mm: Median spacing along R, A, S, in mm.
        spacing_range_mm: Smallest and largest spacing along R, A, S, in mm.
        shape: Median shape along R, A, S, in voxels.
        channels: Foreground intensities of each channel.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_cases: int
    spacing_mm: tuple[float, float, float]
    spacing_range_mm: tuple[tuple[float, float, float], tuple[float, float, float]]
    shape: tuple[int, int, int]
    channels: tuple[ChannelStatistics, ...]


def take_fingerprint(cases: Iterable[tuple[Volume, LabelMap]], seed: int) -> Fingerprint:
    """Read the training cases once and describe them. Holds one case at a time.

    Raises:
        ValueError: If there is no case, or no foreground voxel in any of them.
    """
    rng = np.random.default_rng(seed)
    spacings: list[tuple[float, ...]] = []
    shapes: list[tuple[int, ...]] = []
    samples: list[npt.NDArray[np.float32]] = []
    for volume, label_map in cases:
        spacing_mm, shape = _in_ras_order(volume.grid)
        spacings.append(spacing_mm)
        shapes.append(shape)
        foreground = np.flatnonzero(label_map.labels_IJK)
        drawn = rng.choice(foreground, min(len(foreground), SAMPLES_PER_CASE), replace=False)
        samples.append(volume.data_CIJK.reshape(len(volume.data_CIJK), -1)[:, drawn])
    intensities = np.concatenate(samples, axis=1) if samples else np.empty((0, 0), np.float32)
    if intensities.shape[1] == 0:
        raise ValueError("no foreground voxel in any training case")
    return Fingerprint(
        num_cases=len(spacings),
        spacing_mm=_triple(np.median(spacings, axis=0)),
        spacing_range_mm=(_triple(np.min(spacings, axis=0)), _triple(np.max(spacings, axis=0))),
        shape=_whole(np.median(shapes, axis=0)),
        channels=tuple(_statistics(channel) for channel in intensities),
    )


def settle_preprocessing(
    config: PreprocessingConfig, channels: Sequence[Channel], fingerprint: Fingerprint
) -> Preprocessing:
    """Settle what the user left open: median spacing, normalisation by modality."""
    return Preprocessing(
        spacing_mm=config.spacing_mm or fingerprint.spacing_mm,
        crop_margin_mm=config.crop_margin_mm,
        channels=tuple(
            _normalisation(channel, statistics)
            for channel, statistics in zip(channels, fingerprint.channels, strict=True)
        ),
    )


def _in_ras_order(grid: Grid) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Return spacing in mm and shape along R, A, S, without moving voxels."""
    axis_of = nib.io_orientation(grid.affine)[:, 0].astype(int)
    order = np.argsort(axis_of)
    return tuple(grid.spacing_mm[a] for a in order), tuple(grid.shape[a] for a in order)


def _normalisation(channel: Channel, statistics: ChannelStatistics) -> ChannelNormalisation:
    if channel.modality != "CT":
        return ChannelNormalisation(kind="mr")
    return ChannelNormalisation(
        kind="ct",
        low=statistics.percentile_00_5,
        high=statistics.percentile_99_5,
        mean=statistics.mean,
        std=max(statistics.std, 1e-6),
    )


def _statistics(intensities: npt.NDArray[np.float32]) -> ChannelStatistics:
    low, high = np.percentile(intensities, [0.5, 99.5])
    clipped = np.clip(intensities.astype(np.float64), low, high)
    return ChannelStatistics(
        percentile_00_5=low, percentile_99_5=high, mean=clipped.mean(), std=clipped.std()
    )


def _triple(values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    i, j, k = (round(float(value), 6) for value in values)
    return i, j, k


def _whole(values: npt.NDArray[np.float64]) -> tuple[int, int, int]:
    i, j, k = (int(value) for value in values)
    return i, j, k
