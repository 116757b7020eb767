"""Probabilities for masks that come without: the nearer the boundary, the less certain.

Axes: I, J, K = voxel axes, N = voxels near a boundary, K = classes kept of each (`_NK`).
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.postprocessing.crf.config import num_slots
from pipeline.transforms import Uncertain

BAND_MM = 4.0
"""Distance from a boundary up to which voxels may change."""

SHARPNESS = 3.0
"""Of the band's width, the part over which odds fall by a factor of e."""

Labels = npt.NDArray[np.unsignedinteger]
Entries = tuple[npt.NDArray[np.int64], npt.NDArray[np.int16], npt.NDArray[np.float32]]
"""Voxel, class and signed distance in mm to that class, negative inside."""


def uncertain_of_labels(
    labels_IJK: Labels, label_values: Sequence[int], spacing_mm: Sequence[float], band_mm: float
) -> Uncertain:
    """Return the voxels near a boundary, with probabilities of the labels around.

    The odds of a label fall by a factor of e for each third of the band's width that a voxel is
    further from it, so that at the band's border they meet the certainty of the voxels beyond.

    Args:
        labels_IJK: `(I, J, K)` label values.
        label_values: Of each class; that of the background, 0, first.
        spacing_mm: Distance between voxels along I, J, K, in mm.
        band_mm: Width of the band, to each side of a boundary.

    Raises:
        ValueError: If the band has no width.
    """
    if not band_mm > 0 or not math.isfinite(band_mm):
        raise ValueError(f"The band must be wider than 0 mm, not {band_mm}.")
    top_k = num_slots(len(label_values))
    parts = list(_entries(labels_IJK, label_values, spacing_mm, band_mm))
    if not parts:
        empty = np.empty((0, top_k))
        return Uncertain(np.empty(0, np.int64), empty.astype(np.int16), empty.astype(np.float16))
    voxel_E, class_E, distance_E = (np.concatenate(part) for part in zip(*parts, strict=True))
    voxel_E, class_E, distance_E = _with_own(
        labels_IJK, label_values, (voxel_E, class_E, distance_E)
    )
    order = np.lexsort((class_E, distance_E, voxel_E))
    voxel_E, class_E, distance_E = voxel_E[order], class_E[order], distance_E[order]
    voxel_N, first_N, number_N = np.unique(voxel_E, return_index=True, return_counts=True)
    rank_E = np.arange(len(voxel_E)) - np.repeat(first_N, number_N)
    kept = rank_E < top_k
    row_E = np.repeat(np.arange(len(voxel_N)), number_N)[kept]
    index_NK = np.zeros((len(voxel_N), top_k), np.int16)
    weight_NK = np.zeros((len(voxel_N), top_k), np.float32)
    index_NK[row_E, rank_E[kept]] = class_E[kept]
    weight_NK[row_E, rank_E[kept]] = np.exp(-distance_E[kept] * SHARPNESS / band_mm)
    weight_NK /= weight_NK.sum(axis=1, keepdims=True)
    return Uncertain(voxel_N, index_NK, weight_NK.astype(np.float16))


def _entries(
    labels_IJK: Labels, label_values: Sequence[int], spacing_mm: Sequence[float], band_mm: float
) -> Iterator[Entries]:
    """Yield the voxels within the band around each class, and of the background around others."""
    boxes = ndimage.find_objects(labels_IJK, max(1, *label_values))
    margins = [math.ceil(band_mm / mm) + 1 for mm in spacing_mm]
    for index, value in enumerate(label_values[1:], start=1):
        if boxes[value - 1] is None:
            continue
        box = tuple(
            slice(max(0, along.start - margin), min(size, along.stop + margin))
            for along, margin, size in zip(boxes[value - 1], margins, labels_IJK.shape, strict=True)
        )
        inside_IJK = labels_IJK[box] == value
        for near, far_from, target in (
            (~inside_IJK, ~inside_IJK, index),
            (inside_IJK, labels_IJK[box] != 0, 0),
        ):
            if not near.any() or far_from.all():
                continue
            distance_mm = ndimage.distance_transform_edt(far_from, sampling=spacing_mm)
            places = np.nonzero(near & (distance_mm < band_mm))
            offsets = (place + along.start for place, along in zip(places, box, strict=True))
            voxel_E = np.ravel_multi_index(tuple(offsets), labels_IJK.shape)
            found = distance_mm[places].astype(np.float32)
            yield voxel_E.astype(np.int64), np.full(len(voxel_E), target, np.int16), found


def _with_own(labels_IJK: Labels, label_values: Sequence[int], others: Entries) -> Entries:
    """Add each voxel's own class: as far inside as the nearest other one is away."""
    voxel_E, class_E, distance_E = others
    order = np.lexsort((distance_E, voxel_E))
    voxel_N, first_N = np.unique(voxel_E[order], return_index=True)
    table = np.zeros(max(label_values) + 1, np.int16)
    table[list(label_values)] = np.arange(len(label_values))
    own_N = table[labels_IJK.reshape(-1)[voxel_N]]
    nearest_N = distance_E[order][first_N]
    return (
        np.concatenate([voxel_E, voxel_N]),
        np.concatenate([class_E, own_N]),
        np.concatenate([distance_E, -nearest_N]),
    )
