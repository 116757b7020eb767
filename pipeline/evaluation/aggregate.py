"""Score cases label by label, and average over cases; the only home of rules for empty masks.

Axes: I, J, K = voxel axes.

    prediction  reference   Dice, IoU, NSD   HD95, ASSD           volume error
    present     present     measured         measured             ml, percent of the reference
    present     empty       0                the grid's diagonal  ml; percent undefined
    empty       present     0                the grid's diagonal  ml, -100 percent
    empty       empty       undefined        undefined            0 ml; percent undefined

Undefined is NaN. It is left out of every mean, and `Summary.count` says how many cases entered.
The diagonal is that of the grid's whole extent, in mm: no two surfaces on the grid can be further
apart, so a miss never improves a mean. Volume errors are signed, prediction minus reference.

Axes: I, J, K = voxel axes.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import hypot, nan

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage

from pipeline.evaluation.measures import (
    assd_mm,
    count_overlap,
    dice,
    hd95_mm,
    iou,
    nsd,
    surface_distances,
)
from pipeline.manifest import Region
from pipeline.volume import LARGEST_LABEL, Grid, LabelMap

Structures = Mapping[str, int | tuple[int, ...]]
"""Name of each structure that is scored, and its label value or values."""


def scored_structures(
    labels: Mapping[str, int],
    regions: Sequence[Region] = (),
    annotated: Collection[str] | None = None,
) -> dict[str, int | tuple[int, ...]]:
    """Return the structures that can be scored in a case.

    Args:
        labels: Foreground labels, name to value.
        regions: Scored in place of the labels if there are any, each as the union of its labels.
        annotated: Names of the labels that the case annotates; None for all. A region is scored if
            all of its labels are annotated.
    """
    known = set(labels if annotated is None else annotated)
    if regions:
        return {
            region.name: tuple(labels[name] for name in region.labels)
            for region in regions
            if known.issuperset(region.labels)
        }
    return {name: value for name, value in labels.items() if name in known}


def values_by_name(structures: Structures) -> dict[str, tuple[int, ...]]:
    """Return the label values of each structure.

    Raises:
        ValueError: If one is not within 1 and `LARGEST_LABEL`.
    """
    values_of = {
        name: (value,) if isinstance(value, int) else value for name, value in structures.items()
    }
    for values in values_of.values():
        if min(values) < 1 or max(values) > LARGEST_LABEL:
            found = dict(structures)
            raise ValueError(f"Label values must be within 1 and {LARGEST_LABEL}: {found}.")
    return values_of


def mask_of(
    labels_IJK: npt.NDArray[np.unsignedinteger], values: Sequence[int]
) -> npt.NDArray[np.bool_]:
    """Tell which voxels have one of `values`, which are not empty."""
    # Far faster than isin for the usual case.
    return labels_IJK == values[0] if len(values) == 1 else np.isin(labels_IJK, values)


def without_ignored(
    prediction: LabelMap, reference: LabelMap, ignore_value: int | None
) -> tuple[LabelMap, LabelMap]:
    """Make background, in copies of both, of the voxels that the reference ignores.

    Overlap and volumes then count only what was annotated. Surfaces do too, except that a structure
    that runs into an ignored part ends at its border, in both.

    Args:
        prediction: On the grid of the reference.
        reference: With `ignore_value` where nobody annotated.
        ignore_value: None if nothing is ignored.
    """
    if ignore_value is None:
        return prediction, reference
    ignored_IJK = reference.labels_IJK == ignore_value
    if not ignored_IJK.any():
        return prediction, reference
    cleared = (
        LabelMap(np.where(ignored_IJK, part.labels_IJK.dtype.type(0), part.labels_IJK), part.affine)
        for part in (prediction, reference)
    )
    return next(cleared), next(cleared)


METRICS = ("dice", "iou", "hd95_mm", "assd_mm", "nsd", "volume_error_ml", "volume_error_percent")
"""The fields of `LabelScores` that are averaged over cases."""

MEAN_OVER_LABELS = "mean"
"""The `Summary.label` of the row that averages over labels."""

BOOTSTRAP_SEED = 20240229
CONFIDENCE = 0.95

Box = tuple[slice, ...]


class EvaluationConfig(BaseModel):
    """How predictions are compared with references."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    nsd_tolerance_mm: float = Field(
        default=1.0,
        ge=0,
        le=1e4,
        allow_inf_nan=False,
        description="Surface distance accepted by NSD, mm.",
    )
    ignore_value: int | None = Field(
        default=None,
        ge=1,
        le=LARGEST_LABEL,
        description="Value of reference voxels that nobody annotated; the manifest's in training.",
    )
    num_resamples: int = Field(
        default=2000,
        ge=1,
        le=10**5,
        description="Bootstrap resamples behind each confidence interval.",
    )


DEFAULT_CONFIG = EvaluationConfig()


@dataclass(frozen=True)
class LabelScores:
    """Scores of one label in one case; NaN where undefined (see the module's table).

    Attributes:
        case: Name of the case.
        label: Name of the label.
        dice: Dice index, 0 to 1.
        iou: Jaccard index, 0 to 1.
        hd95_mm: 95th percentile Hausdorff distance, in mm.
        assd_mm: Average symmetric surface distance, in mm.
        nsd: Normalised surface Dice at the configured tolerance, 0 to 1.
        volume_ml: Predicted volume, in ml.
        reference_volume_ml: Volume of the reference, in ml.
        volume_error_ml: Predicted minus reference volume, in ml.
        volume_error_percent: The same in percent of the reference volume.
    """

    case: str
    label: str
    dice: float
    iou: float
    hd95_mm: float
    assd_mm: float
    nsd: float
    volume_ml: float
    reference_volume_ml: float
    volume_error_ml: float
    volume_error_percent: float


@dataclass(frozen=True)
class Summary:
    """The mean of one metric over cases.

    Attributes:
        label: Name of the label, or `MEAN_OVER_LABELS`.
        metric: One of `METRICS`.
        mean: Mean over the cases where the metric is defined; NaN if there is none.
        ci_low: Lower end of the 95 % confidence interval; NaN for fewer than two cases.
        ci_high: Upper end of the 95 % confidence interval; NaN for fewer than two cases.
        count: Number of cases that entered.
    """

    label: str
    metric: str
    mean: float
    ci_low: float
    ci_high: float
    count: int


def score_case(
    case: str,
    prediction: LabelMap,
    reference: LabelMap,
    labels: Structures,
    config: EvaluationConfig = DEFAULT_CONFIG,
) -> list[LabelScores]:
    """Compare one prediction with its reference, label by label.

    Voxels that the reference ignores count for nothing; for surfaces they are background in both,
    so that a structure that runs into them ends there.

    Args:
        case: Name of the case, repeated in each result.
        prediction: Predicted labels.
        reference: Reference labels on the same grid.
        labels: What to score: name and value, or values of a region that counts as one; see
            `scored_structures`.
        config: Tolerance of the NSD, and the value of ignored voxels.

    Returns:
        One entry for each of `labels`, in their order.

    Raises:
        ValueError: If the grids differ, or a label's value is not within 1 and `LARGEST_LABEL`.
    """
    grid = reference.grid
    if not prediction.grid.same_as(grid):
        raise ValueError(f"{case}: prediction and reference lie on different grids.")
    values_of = values_by_name(labels)
    last = max((max(values) for values in values_of.values()), default=1)
    prediction, reference = without_ignored(prediction, reference, config.ignore_value)
    boxes = [ndimage.find_objects(part.labels_IJK, last) for part in (prediction, reference)]
    scores = []
    for name, values in values_of.items():
        found = [of_part[value - 1] for of_part in boxes for value in values]
        present = [box for box in found if box is not None]
        if not present:
            scores.append(absent_scores(case, name))
            continue
        box = _union(present)
        inside = [part.labels_IJK[box] for part in (prediction, reference)]
        masks = (mask_of(inside[0], values), mask_of(inside[1], values))
        scores.append(_score_label(case, name, masks, grid, config))
    return scores


def absent_scores(case: str, label: str) -> LabelScores:
    """Return the scores of a label that is empty in both prediction and reference."""
    undefined = dict.fromkeys(("dice", "iou", "hd95_mm", "assd_mm", "nsd"), nan)
    return LabelScores(case, label, **undefined, **_volume_scores(0.0, 0.0))


def summarise(
    scores: Sequence[LabelScores], config: EvaluationConfig = DEFAULT_CONFIG
) -> list[Summary]:
    """Average each metric over cases, with 95 % bootstrap confidence intervals.

    The rows for each label come first, in their order of appearance; then the rows named
    `MEAN_OVER_LABELS`, which average over cases the mean of each case's defined labels.

    Args:
        scores: Scores of any number of cases.
        config: Number of bootstrap resamples.

    Source:
        Percentile intervals over resampled cases: Efron and Tibshirani, An Introduction to the
        Bootstrap, 1993, chapter 13.
    """
    if not scores:
        return []
    cases = {name: row for row, name in enumerate(dict.fromkeys(s.case for s in scores))}
    labels = {name: column for column, name in enumerate(dict.fromkeys(s.label for s in scores))}
    table = np.full((len(cases), len(labels), len(METRICS)), nan)
    for s in scores:
        table[cases[s.case], labels[s.label]] = [getattr(s, metric) for metric in METRICS]
    defined = ~np.isnan(table)
    count = defined.sum(axis=1)
    per_case = np.where(defined, table, 0).sum(axis=1) / np.where(count, count, nan)
    columns = [(name, table[:, column]) for name, column in labels.items()]
    return [
        _summarise_metric(name, metric, values[:, column], config.num_resamples)
        for name, values in [*columns, (MEAN_OVER_LABELS, per_case)]
        for column, metric in enumerate(METRICS)
    ]


def _score_label(
    case: str,
    label: str,
    masks: tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]],
    grid: Grid,
    config: EvaluationConfig,
) -> LabelScores:
    overlap = count_overlap(*masks)
    if overlap.num_prediction and overlap.num_reference:
        distances = surface_distances(*masks, grid.spacing_mm)
        hd95, assd = hd95_mm(distances), assd_mm(distances)
        surface_dice = nsd(distances, config.nsd_tolerance_mm)
    else:
        hd95 = assd = hypot(*(n * mm for n, mm in zip(grid.shape, grid.spacing_mm, strict=True)))
        surface_dice = 0.0
    ml = grid.voxel_volume_mm3 / 1000
    volumes = _volume_scores(overlap.num_prediction * ml, overlap.num_reference * ml)
    return LabelScores(
        case, label, dice(overlap), iou(overlap), hd95, assd, surface_dice, **volumes
    )


def _volume_scores(volume_ml: float, reference_ml: float) -> dict[str, float]:
    error_ml = volume_ml - reference_ml
    return {
        "volume_ml": volume_ml,
        "reference_volume_ml": reference_ml,
        "volume_error_ml": error_ml,
        "volume_error_percent": 100 * error_ml / reference_ml if reference_ml else nan,
    }


def _union(boxes: Sequence[Box]) -> Box:
    axes = zip(*boxes, strict=True)
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in axes)


def _summarise_metric(
    label: str, metric: str, values: npt.NDArray[np.float64], num_resamples: int
) -> Summary:
    values = values[~np.isnan(values)]
    count = len(values)
    if count < 2:
        return Summary(label, metric, float(values[0]) if count else nan, nan, nan, count)
    chosen = np.random.default_rng(BOOTSTRAP_SEED).integers(count, size=(num_resamples, count))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values[chosen].mean(axis=1), [tail, 1 - tail])
    return Summary(label, metric, float(values.mean()), float(low), float(high), count)
