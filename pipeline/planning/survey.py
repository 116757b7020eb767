"""One pass over the training cases: fingerprint, bodies, labels, how exact a grid can be.

Axes: C = channels, I, J, K = voxel axes in RAS order.

Resampled to a coarser grid and back, labels come back changed: no network that learns there can be
expected to do better on the whole. How much is lost depends on how thin and how small the labels
are, so it is measured on the data.

Axes: I, J, K = voxel axes in RAS order.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pipeline.evaluation import EvaluationConfig, score_case, scored_structures, values_by_name
from pipeline.evaluation.aggregate import Structures
from pipeline.fingerprint import Fingerprint, take_fingerprint
from pipeline.manifest import Case, Channel, Manifest
from pipeline.patches import crop_box
from pipeline.postprocessing.components import find_components
from pipeline.study import read_label_map
from pipeline.system.progress import track
from pipeline.transforms.config import PreprocessingConfig
from pipeline.transforms.labels import resample_labels
from pipeline.transforms.orientation import ras_grid, ras_view
from pipeline.transforms.placement import AxisMap
from pipeline.volume import LabelMap, Slices, Volume

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Body:
    """What preprocessing keeps of one case, and where its labels lie.

    Attributes:
        size_mm: Extent of the crop around everything that is not air or zero, along R, A, S.
        positions: Of each label value that the case has: its centroid relative to the centre of
            the crop, as a share of the crop's extent, along R, A, S; -0.5 to 0.5.
        foreground_share: Share of the crop's voxels that are labelled.
    """

    size_mm: Triple
    positions: dict[int, Triple]
    foreground_share: float


@dataclass(frozen=True)
class Survey:
    """What the rules decide from."""

    fingerprint: Fingerprint
    bodies: tuple[Body, ...]

    @property
    def size_mm(self) -> Triple:
        """Median extent of the crops along R, A, S, in mm."""
        r, a, s = np.median([body.size_mm for body in self.bodies], axis=0).tolist()
        return r, a, s

    @property
    def foreground_share(self) -> float:
        """Median over the cases of the labelled share of the crop's voxels."""
        return float(np.median([body.foreground_share for body in self.bodies]))


def take_survey(
    cases: Iterable[tuple[Volume, LabelMap]],
    channels: Sequence[Channel],
    ignore_value: int | None = None,
) -> Survey:
    """Read the training cases once. Holds one case at a time.

    Raises:
        ValueError: If there is no case, or no foreground voxel in any of them.
    """
    bodies: list[Body] = []

    def observed() -> Iterator[tuple[Volume, LabelMap]]:
        for volume, label_map in cases:
            bodies.append(find_body(volume, label_map, channels, ignore_value))
            yield volume, label_map

    fingerprint = take_fingerprint(observed(), 0, ignore_value)
    return Survey(fingerprint, tuple(bodies))


def find_body(
    volume: Volume,
    label_map: LabelMap,
    channels: Sequence[Channel],
    ignore_value: int | None = None,
) -> Body:
    """Crop as preprocessing does, and locate the labels in the crop."""
    ras = ras_grid(volume.grid)
    box = np.array(crop_box(volume, channels, PreprocessingConfig().crop_margin_mm))
    labels_IJK = ras_view(label_map.labels_IJK.astype(np.int32), label_map.affine)
    voxels = np.nonzero(labels_IJK)
    values = labels_IJK[voxels]
    counts = np.bincount(values, minlength=1)
    if ignore_value is not None and ignore_value < len(counts):
        counts[ignore_value] = 0
    extent = box[:, 1] - box[:, 0]
    sums = np.stack([np.bincount(values, along, minlength=1) for along in voxels])
    found = np.flatnonzero(counts)
    centroids = sums[:, found] / counts[found]
    middle = (box[:, :1] + box[:, 1:] - 1) / 2
    shares = (centroids - middle) / extent[:, None]
    r, a, s = (extent * ras.spacing_mm).tolist()
    return Body(
        (r, a, s),
        {int(value): (x, y, z) for value, (x, y, z) in zip(found, shares.T.tolist(), strict=True)},
        float(counts.sum() / np.prod(extent)),
    )


MOST_CASES = 6
MOST_VOXELS = 12_000_000
"""Of the boxes of labels that are resampled, from which on no further case is looked at."""

MOST_OF_CASE = 4_000_000
"""Of the box around all labels of a case; of a larger one, each structure's own is resampled, and
of that only what is its share of so many voxels."""

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
        if case.label is None or voxels >= MOST_VOXELS:
            continue
        around = _in_ras(read_label_map(case.label, manifest.study))
        for value, extent_mm in _extents(around, list(manifest.labels.values())).items():
            extents.setdefault(value, []).append(extent_mm)
        structures = scored_structures(manifest.labels, manifest.regions, case.annotated)
        parts = list(_parts(around, structures))
        voxels += sum(part.labels_IJK.size for part, _ in parts)
        found.append(
            [_keep_all(parts, spacing_mm, manifest.ignore_value) for spacing_mm in spacings_mm]
        )
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


def _keep_all(
    parts: Sequence[tuple[LabelMap, Structures]], spacing_mm: Triple, ignore_value: int | None
) -> tuple[float, float]:
    """Return the mean over structures of `keep`, each in its part; NaN where none is there."""
    kept = np.array([keep(part, spacing_mm, scored, ignore_value) for part, scored in parts])
    kept = kept[~np.isnan(kept).any(axis=1)]
    dice, hd95_mm = kept.mean(axis=0).tolist() if len(kept) else (np.nan, np.nan)
    return dice, hd95_mm


def _in_ras(label_map: LabelMap) -> LabelMap:
    """Return the box around all labels, with a margin, in RAS order."""
    whole_IJK = ras_view(label_map.labels_IJK, label_map.affine)
    box = _box_around(whole_IJK > 0)
    return _cut(LabelMap(whole_IJK, ras_grid(label_map.grid).affine), box)


def _parts(label_map: LabelMap, structures: Structures) -> Iterator[tuple[LabelMap, Structures]]:
    """Yield what to resample of a case, and the structures to score there: all at once, or each.

    Args:
        label_map: The box around all labels.
        structures: To score.
    """
    if label_map.labels_IJK.size <= MOST_OF_CASE or not structures:
        yield label_map, structures
        return
    most_voxels = MOST_OF_CASE // len(structures)
    for name, values in values_by_name(structures).items():
        is_there = np.isin(label_map.labels_IJK, values)
        if is_there.any():
            box = _shrink(_box_around(is_there), is_there, most_voxels)
            yield _cut(label_map, box), {name: structures[name]}


def _shrink(box: Slices, is_there: npt.NDArray[np.bool_], most_voxels: int) -> Slices:
    """Shorten a box alike along each axis to so many voxels, around one that is there, if need be.

    That is the one in the middle of all, in the order of their indices.
    """
    share = (most_voxels / math.prod(along.stop - along.start for along in box)) ** (1 / 3)
    if share >= 1:
        return box
    inside = is_there[box]
    places = np.flatnonzero(inside)
    middle = np.unravel_index(places[len(places) // 2], inside.shape)
    parts = []
    for along, place in zip(box, middle, strict=True):
        length = max(1, int(share * (along.stop - along.start)))
        start = min(max(along.start, along.start + int(place) - length // 2), along.stop - length)
        parts.append(slice(start, start + length))
    i, j, k = parts
    return i, j, k


def _box_around(is_there: npt.NDArray[np.bool_]) -> Slices:
    """Return the box around what is there, with a margin, within the volume."""
    parts = []
    for axis, size in enumerate(is_there.shape):
        others = tuple(other for other in range(3) if other != axis)
        places = np.flatnonzero(is_there.any(axis=others))
        first, last = (int(places[0]), int(places[-1])) if len(places) else (0, 0)
        parts.append(slice(max(first - MARGIN_VOXELS, 0), min(last + MARGIN_VOXELS + 1, size)))
    i, j, k = parts
    return i, j, k


def _cut(label_map: LabelMap, box: Slices) -> LabelMap:
    affine = label_map.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [along.start for along in box]
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
