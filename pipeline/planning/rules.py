"""What a plan is asked for, and the rules that turn measured numbers into settings.

Source:
    Isensee et al., nnU-Net, Nature Methods 18, 2021, doi:10.1038/s41592-020-01008-z; what departs
    from it is said where it does.
"""

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from pipeline.manifest import ReadingConfig
from pipeline.planning.survey import Survey, Triple

BYTES_PER_GB = 1e9


class PlanConfig(BaseModel):
    """What to plan for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    manifest: Path = Field(description="The data set.")
    out: Path = Field(description="The configuration to write.")
    reading: ReadingConfig = ReadingConfig()
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N.")
    memory_gb: float | None = Field(
        default=None, gt=0, description="Memory of the device; that of the one at hand if not set."
    )
    minutes: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="Budget; a rule if not set."
    )
    measure: bool = Field(default=True, description="Time a few steps, and try what is in doubt.")
    replace: bool = Field(default=False, description="Set aside a configuration that is there.")


ANISOTROPY = 3.0
"""Ratio of spacings, and of shapes, from which slices count as thick (nnU-Net)."""

MIN_LABEL_VOXELS = 200
"""That the smallest label keeps when the spacing is coarsened."""

DATA_SHARE = 0.05
"""Largest share of all training voxels in one batch (nnU-Net)."""

Kind = Literal["cpu", "cuda"]

VALIDATIONS = 10
"""Validations during a run."""

LONGEST_MINUTES = {"cpu": 60.0, "cuda": 240.0}
"""Of a budget that nobody asked for."""

PASSES = 100
"""Times that a run without `--minutes` should see the whole of every case."""

MANY_PASSES = 150
"""Times that every case is seen from which patches are changed more strongly."""

STRONG_AUGMENTATION = {
    "rotation_degrees": 30.0,
    "scale_range": 0.2,
    "elastic_probability": 0.3,
    "low_resolution_probability": 0.15,
}
"""Settings of `AugmentationConfig`. Chosen on the development fold of benchmarks/training.md."""


def is_anisotropic(survey: Survey) -> bool:
    """Tell whether one axis has thick slices: spacing and shape both differ by a factor of 3."""
    spacing = np.array(survey.fingerprint.spacing_mm)
    thick = int(spacing.argmax())
    shape = np.array(survey.size_mm) / spacing
    others = [axis for axis in range(3) if axis != thick]
    return bool(
        spacing.max() >= ANISOTROPY * spacing.min()
        and shape[thick] * ANISOTROPY <= shape[others].min()
    )


def target_spacing(survey: Survey) -> Triple:
    """Median spacing; with thick slices, the 10th percentile along their axis.

    The thick axis never becomes finer than the others.
    """
    spacing = list(survey.fingerprint.spacing_mm)
    percentiles = survey.fingerprint.spacing_percentiles_mm
    if is_anisotropic(survey) and percentiles is not None:
        thick = int(np.argmax(spacing))
        others = [spacing[axis] for axis in range(3) if axis != thick]
        spacing[thick] = max(percentiles.p10[thick], *others)
    r, a, s = (float(f"{value:.4g}") for value in spacing)
    return r, a, s


def coarsen(spacing_mm: Triple, factor: float) -> Triple:
    """Make voxels larger by `factor` in volume; finer axes first, until all are within 2x.

    nnU-Net's rule for the low resolution of its cascade.
    """
    spacing = np.array(spacing_mm)
    step = 1.03
    while np.prod(spacing / spacing_mm) < factor:
        fine = spacing.max() / spacing > 2
        spacing[fine if fine.any() else slice(None)] *= step
    r, a, s = (float(f"{value:.4g}") for value in spacing)
    return r, a, s


def largest_coarsening(survey: Survey, spacing_mm: Triple) -> float:
    """Return by how much voxels may grow before the smallest label has too few of them."""
    smallest_mm3 = min(label.volume_ml[1] for label in survey.fingerprint.labels) * 1000
    return max(1.0, smallest_mm3 / MIN_LABEL_VOXELS / float(np.prod(spacing_mm)))


def largest_batch(survey: Survey, patch_voxels: int, volume_voxels: float, kind: Kind) -> int:
    """Return the largest sensible batch, at least 2: 5 % of the data, and bounded by the device."""
    of_data = DATA_SHARE * survey.fingerprint.num_cases * volume_voxels / patch_voxels
    return int(np.clip(of_data, 2, 4 if kind == "cpu" else 12))


def foreground_share(survey: Survey) -> float:
    """Return the share of patches to place on a label: the rarer labelled voxels, the more."""
    share = survey.foreground_share
    if share < 0.01:
        return 0.8
    return 0.67 if share < 0.1 else 0.5


def budget_minutes(
    survey: Survey, patch_share: float, batch_size: int, seconds: float, kind: Kind
) -> float:
    """Return minutes for about `PASSES` passes over the data, within what the device is good for.

    Args:
        survey: Of the training cases.
        patch_share: Share of the median volume that a patch covers.
        batch_size: Patches per iteration.
        seconds: Per iteration.
        kind: Of device.
    """
    wanted = PASSES * survey.fingerprint.num_cases / patch_share / batch_size
    fewest, most = (1500, 4000) if kind == "cpu" else (3000, 20_000)
    minutes = float(np.clip(wanted, fewest, most)) * seconds / 60
    return float(np.clip(5 * np.ceil(minutes / 5), 5, LONGEST_MINUTES[kind]))


def augmentation_for(
    survey: Survey, patch_share: float, batch_size: int, iterations: float
) -> dict[str, float]:
    """Return stronger changes to patches where the budget shows every case many times.

    A run this long learns the noise of its labels by heart unless patches keep changing; a shorter
    one learns less from patches that change more. nnU-Net augments alike whatever the budget.

    Args:
        survey: Of the training cases.
        patch_share: Share of the median volume that a patch covers.
        batch_size: Patches per iteration.
        iterations: Of the whole run.
    """
    passes = iterations * batch_size * patch_share / survey.fingerprint.num_cases
    return dict(STRONG_AUGMENTATION) if passes > MANY_PASSES else {}


def epochs_between_validations(minutes: float, seconds: float, per_epoch: int) -> dict[str, int]:
    """Return the settings for about ten validations in a run.

    Args:
        minutes: Budget.
        seconds: Per iteration.
        per_epoch: Iterations of an epoch, unless the budget holds fewer than ten of those.
    """
    iterations = max(1, round(minutes * 60 / seconds))
    per_epoch = min(per_epoch, max(1, iterations // VALIDATIONS))
    every = max(1, round(iterations / per_epoch / VALIDATIONS))
    return {"iterations_per_epoch": per_epoch, "validate_every_epochs": every}
