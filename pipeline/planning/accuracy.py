"""What the labels themselves say of a working grid: how exact it can be, and what a patch must see.

Resampled to a coarser grid and back, labels come back changed: no network that learns there can be
expected to do better on the whole. How much is lost depends on how thin and how small the labels
are, so it is measured on the data.

Axes: I, J, K = voxel axes in RAS order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.evaluation import EvaluationConfig, score_case, scored_structures
from pipeline.evaluation.scope import Structures
from pipeline.manifest import Case, Manifest
from pipeline.planning.survey import Triple
from pipeline.postprocessing.components import find_components
from pipeline.progress import track
from pipeline.study import read_label_map
from pipeline.transforms.labels import resample_labels
from pipeline.transforms.orientation import ras_grid, ras_view
from pipeline.transforms.placement import AxisMap
from pipeline.volume import LabelMap

MOST_CASES = 6
MOST_VOXELS = 100_000_000
"""Of the cases that are looked at, all together; one is looked at in any case."""

MARGIN_VOXELS = 8
"""Around the labels, on the study's own grid."""


@dataclass(frozen=True)
class Accuracy:
    """What labels keep on the way to a grid and back.

    Attributes:
        spacing_mm: Of the grid, along R, A, S.
        dice: Mean Dice over cases and labels of what comes back.
        hd95_mm: Mean 95th percentile Hausdorff distance.
    """

    spacing_mm: Triple
    dice: float
    hd95_mm: float


@dataclass(frozen=True)
class CloseLook:
    """What some of the training cases' labels say.

    Attributes:
        accuracies: Of each working grid.
        extents_mm: Of each label value, the median extent of its largest component along R, A, S.
        num_cases: That were looked at.
    """

    accuracies: tuple[Accuracy, ...]
    extents_mm: dict[int, Triple]
    num_cases: int


def look_closely(
    cases: Sequence[Case], manifest: Manifest, spacings_mm: Sequence[Triple]
) -> CloseLook:
    """Read the labels of a few cases again, spread over all, and measure what grids do to them.

    Args:
        cases: The training cases, all with labels.
        manifest: That lists them.
        spacings_mm: Of the working grids, along R, A, S, the finest first.
    """
    extents: dict[int, list[Triple]] = {}
    found: list[list[tuple[float, float]]] = []
    voxels = 0
    chosen = cases[:: -(-len(cases) // MOST_CASES)]
    for case in track(chosen, "Resampling labels there and back", len(chosen)):
        if case.label is None or voxels > MOST_VOXELS:
            continue
        label_map = _in_ras(read_label_map(case.label, manifest.study))
        voxels += label_map.labels_IJK.size
        for value, extent_mm in _extents(label_map, list(manifest.labels.values())).items():
            extents.setdefault(value, []).append(extent_mm)
        structures = scored_structures(manifest.labels, manifest.regions, case.annotated)
        around = _crop(label_map)
        found.append([keep(around, one, structures, manifest.ignore_value) for one in spacings_mm])
    scores = np.array([one for one in found if not np.isnan(one).any()])
    means = scores.mean(axis=0) if len(scores) else np.tile((1.0, 0.0), (len(spacings_mm), 1))
    # Where voxels happen to fall, a coarser grid may lose less than a finer one.
    means[:, 0] = np.minimum.accumulate(means[:, 0])
    means[:, 1] = np.maximum.accumulate(means[:, 1])
    return CloseLook(
        tuple(
            Accuracy(spacing_mm, float(dice), float(hd95_mm))
            for spacing_mm, (dice, hd95_mm) in zip(spacings_mm, means, strict=True)
        ),
        {value: _median(of_value) for value, of_value in extents.items()},
        len(found),
    )


def keep(
    label_map: LabelMap,
    spacing_mm: Triple,
    structures: Structures,
    ignore_value: int | None = None,
) -> tuple[float, float]:
    """Resample labels to a grid and back; return the mean Dice and HD95 in mm over structures.

    The way there is that of training labels, and the way back is that of a network that is sure of
    them. NaN where no structure is there.

    Args:
        label_map: In RAS order.
        spacing_mm: Of the grid.
        structures: To score.
        ignore_value: Of voxels that count in no score.
    """
    axes = [
        AxisMap.between(size, native_mm, working_mm)
        for size, native_mm, working_mm in zip(
            label_map.grid.shape, label_map.grid.spacing_mm, spacing_mm, strict=True
        )
    ]
    values = np.unique(label_map.labels_IJK)
    values = values[values != 0]
    indices = torch.from_numpy(np.searchsorted(values, label_map.labels_IJK, "right"))
    working = resample_labels(
        indices.to(torch.int16), [axis.native_positions() for axis in axes], len(values) + 1
    )
    back = resample_labels(working, [axis.working_positions() for axis in axes], len(values) + 1)
    table = np.concatenate([np.zeros(1, values.dtype), values])
    prediction = LabelMap(table[back.numpy()], label_map.affine)
    config = EvaluationConfig(ignore_value=ignore_value)
    scores = score_case("", prediction, label_map, structures, config)
    defined = [(score.dice, score.hd95_mm) for score in scores if not np.isnan(score.dice)]
    if not defined:
        return np.nan, np.nan
    dice, hd95_mm = np.mean(defined, axis=0).tolist()
    return dice, hd95_mm


def _in_ras(label_map: LabelMap) -> LabelMap:
    labels_IJK = np.ascontiguousarray(ras_view(label_map.labels_IJK, label_map.affine))
    return LabelMap(labels_IJK, ras_grid(label_map.grid).affine)


def _crop(label_map: LabelMap) -> LabelMap:
    """Cut out the box around all labels, with a margin."""
    places = np.nonzero(label_map.labels_IJK)
    first = [max(int(along.min()) - MARGIN_VOXELS, 0) if along.size else 0 for along in places]
    last = [int(along.max()) + MARGIN_VOXELS + 1 if along.size else 1 for along in places]
    box = tuple(slice(*ends) for ends in zip(first, last, strict=True))
    affine = label_map.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ first
    return LabelMap(np.ascontiguousarray(label_map.labels_IJK[box]), affine)


def _extents(label_map: LabelMap, values: Sequence[int]) -> dict[int, Triple]:
    """Return the extent in mm of the largest component of each label that is there."""
    found = find_components(label_map.labels_IJK, values)
    if found is None:
        return {}
    extents: dict[int, Triple] = {}
    for value in values:
        (among,) = np.nonzero((found.label_N == value) & (found.num_voxels_N > 0))
        among = among[among > 0]
        if not len(among):
            continue
        largest = int(among[np.argmax(found.num_voxels_N[among])])
        size = found.last_N3[largest] - found.first_N3[largest] + 1
        r, a, s = (size * label_map.grid.spacing_mm).tolist()
        extents[value] = (r, a, s)
    return extents


def _median(extents: Sequence[Triple]) -> Triple:
    r, a, s = np.median(extents, axis=0).tolist()
    return r, a, s
