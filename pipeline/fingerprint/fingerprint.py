"""What the training cases look like, and the preprocessing that follows from it."""

from collections.abc import Iterable, Sequence
from typing import Annotated

import nibabel as nib
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from pipeline.errors import ManifestError
from pipeline.fingerprint.appearance import Look, look_at
from pipeline.fingerprint.cohort_look import CohortLook, describe_looks
from pipeline.manifest import NORMALISE_OTHERWISE, Channel
from pipeline.transforms.config import ChannelNormalisation, Preprocessing, PreprocessingConfig
from pipeline.volume import Grid, LabelMap, Volume

SAMPLES_PER_CASE = 10_000
"""Foreground voxels drawn from each case for the intensity statistics."""

Count = Annotated[int, Field(ge=0, le=2**31)]


class ChannelStatistics(BaseModel):
    """Intensities of one channel over the foreground voxels of all training cases."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    percentile_00_5: float
    percentile_99_5: float
    mean: float
    std: float


class Percentiles(BaseModel):
    """The 10th, 50th and 90th percentile over the training cases, each along R, A, S."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    p10: tuple[float, float, float]
    p50: tuple[float, float, float]
    p90: tuple[float, float, float]


class LabelStatistics(BaseModel):
    """How large one label is, over the training cases that have it.

    Attributes:
        value: Of the label in the label maps.
        num_cases: Cases that have it.
        volume_ml: 10th, 50th and 90th percentile of its volume in those cases, in ml.
        range_ml: Its smallest and largest volume in those cases, in ml; None in models of earlier
            versions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: Count
    num_cases: Count
    volume_ml: tuple[float, float, float]
    range_ml: tuple[float, float] | None = None


class Fingerprint(BaseModel):
    """What the training cases look like; stored in the model, to compare new studies with.

    Attributes:
        num_cases: Number of training cases.
        spacing_mm: Median spacing along R, A, S, in mm.
        spacing_range_mm: Smallest and largest spacing along R, A, S, in mm.
        shape: Median shape along R, A, S, in voxels.
        channels: Foreground intensities of each channel.
        spacing_percentiles_mm: Of the spacing, in mm. None in models of earlier versions, like the
            two below.
        shape_percentiles: Of the shape, in voxels.
        size_percentiles_mm: Of the physical size, shape times spacing, in mm.
        labels: Each label value that occurs, by value; empty in models of earlier versions.
        look: Of the whole images, for the admission of new studies; None in models of earlier
            versions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_cases: Annotated[Count, Field(ge=1)]
    spacing_mm: tuple[float, float, float]
    spacing_range_mm: tuple[tuple[float, float, float], tuple[float, float, float]]
    shape: tuple[Count, Count, Count]
    channels: tuple[ChannelStatistics, ...]
    spacing_percentiles_mm: Percentiles | None = None
    shape_percentiles: Percentiles | None = None
    size_percentiles_mm: Percentiles | None = None
    labels: tuple[LabelStatistics, ...] = ()
    look: CohortLook | None = None

    @property
    def anisotropy(self) -> float:
        """Largest over smallest median spacing; 1 for isotropic voxels."""
        return max(self.spacing_mm) / min(self.spacing_mm)


def take_fingerprint(
    cases: Iterable[tuple[Volume, LabelMap]], seed: int, ignore_value: int | None = None
) -> Fingerprint:
    """Read the training cases once and describe them. Holds one case at a time.

    Args:
        cases: Images with their label maps.
        seed: Of the voxels drawn for the intensity statistics.
        ignore_value: Label value of voxels that nobody annotated; they count for nothing.

    Raises:
        ValueError: If there is no case, or no foreground voxel in any of them.
    """
    rng = np.random.default_rng(seed)
    spacings: list[tuple[float, ...]] = []
    shapes: list[tuple[int, ...]] = []
    samples: list[npt.NDArray[np.float32]] = []
    volumes_ml: dict[int, list[float]] = {}
    looks: list[Look] = []
    for volume, label_map in cases:
        spacing_mm, shape = _in_ras_order(volume.grid)
        spacings.append(spacing_mm)
        shapes.append(shape)
        looks.append(look_at(volume))
        labels_IJK = label_map.labels_IJK
        # Only the labelled voxels are copied, to count them.
        is_foreground = labels_IJK > 0
        if ignore_value is not None:
            is_foreground &= labels_IJK != ignore_value
        for value, count in enumerate(np.bincount(labels_IJK[is_foreground])):
            if count:
                volume_ml = float(count) * label_map.grid.voxel_volume_mm3 / 1000
                volumes_ml.setdefault(value, []).append(volume_ml)
        foreground = np.flatnonzero(is_foreground)
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
        spacing_percentiles_mm=_percentiles(spacings),
        shape_percentiles=_percentiles(shapes),
        size_percentiles_mm=_percentiles(np.multiply(shapes, spacings)),
        labels=tuple(_sizes(value, volumes_ml[value]) for value in sorted(volumes_ml)),
        look=describe_looks(looks),
    )


def settle_preprocessing(
    config: PreprocessingConfig, channels: Sequence[Channel], fingerprint: Fingerprint
) -> Preprocessing:
    """Settle what the user left open: median spacing, and what `ct` takes from the cohort.

    Raises:
        ManifestError: If nothing would be left of a channel.
    """
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
    settled = ChannelNormalisation(kind=channel.scheme, hounsfield=channel.modality == "CT")
    if settled.kind != "ct":
        return settled
    if statistics.percentile_00_5 == statistics.percentile_99_5:
        found = f"99 % of the labelled voxels have the value {statistics.mean:g}"
        raise ManifestError(f"channel {channel.name}", found, NORMALISE_OTHERWISE)
    return settled.model_copy(
        update={
            "low": statistics.percentile_00_5,
            "high": statistics.percentile_99_5,
            "mean": statistics.mean,
            "std": max(statistics.std, 1e-6),
        }
    )


def _statistics(intensities: npt.NDArray[np.float32]) -> ChannelStatistics:
    low, high = np.percentile(intensities, [0.5, 99.5])
    clipped = np.clip(intensities.astype(np.float64), low, high)
    return ChannelStatistics(
        percentile_00_5=low, percentile_99_5=high, mean=clipped.mean(), std=clipped.std()
    )


def _percentiles(rows: Sequence[tuple[float, ...]] | npt.NDArray[np.float64]) -> Percentiles:
    """Percentiles of `(num_cases, 3)` rows, axis by axis."""
    p10, p50, p90 = np.percentile(np.asarray(rows, np.float64), [10, 50, 90], axis=0)
    return Percentiles(p10=_triple(p10), p50=_triple(p50), p90=_triple(p90))


def _sizes(value: int, volumes_ml: list[float]) -> LabelStatistics:
    percentiles = np.percentile(volumes_ml, [10, 50, 90])
    return LabelStatistics(
        value=value,
        num_cases=len(volumes_ml),
        volume_ml=_triple(percentiles),
        range_ml=(round(min(volumes_ml), 6), round(max(volumes_ml), 6)),
    )


def _triple(values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    i, j, k = (round(float(value), 6) for value in values)
    return i, j, k


def _whole(values: npt.NDArray[np.float64]) -> tuple[int, int, int]:
    i, j, k = (int(value) for value in values)
    return i, j, k
