"""Which components of each label to keep, label by label, as exported bundles do it.

Needs nothing but numpy and scipy, since bundles carry this module with them. The pipeline itself
finds the components of all labels at once: `pipeline.postprocessing.components`.

Axes: I, J, K = voxel axes; N counts the voxels of one label, in the order of their indices.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

VOLUME_ROUNDING = 1e-6
"""Relative shortfall of a volume that is put down to rounding: affines are stored as float32."""

Labels = npt.NDArray[np.unsignedinteger]


class Keep(NamedTuple):
    """What a component of one label must be to be kept: all of this.

    Attributes:
        largest: One of this many largest of its label; None: of any rank.
        min_volume_mm3: At least of this volume.
    """

    largest: int | None
    min_volume_mm3: float


def keep_components(
    labels_IJK: Labels, rules: Mapping[int, Keep], voxel_volume_mm3: float
) -> Labels:
    """Set to background the components that the rules do not keep.

    Components are voxels that share a face, an edge or a corner. Each label is cleaned on its own,
    so structures that touch never merge. Of components of equal size, the one that holds the voxel
    with the smallest index `(i, j, k)`, compared in that order, comes first.

    Args:
        labels_IJK: `(I, J, K)` label map; 0 is background.
        rules: By label value; other labels stay as they are.
        voxel_volume_mm3: Volume of one voxel.

    Returns:
        A new `(I, J, K)` label map of the same type; the input is not changed.
    """
    cleaned = labels_IJK.copy()
    boxes = ndimage.find_objects(labels_IJK, max(rules, default=1))
    for value, rule in rules.items():
        box = boxes[value - 1]
        if box is None:
            continue
        mask_IJK = labels_IJK[box] == value
        components: Any = ndimage.label(mask_IJK, np.ones((3, 3, 3)))[0]
        component_N = components[mask_IJK]
        volumes_mm3 = np.bincount(component_N) * voxel_volume_mm3
        kept = volumes_mm3 * (1 + VOLUME_ROUNDING) >= rule.min_volume_mm3
        if rule.largest is not None:
            kept &= _ranks(component_N) < rule.largest
        cleaned[box][mask_IJK] = np.where(kept[component_N], value, 0)
    return cleaned


def _ranks(component_N: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
    """Return the place of each component, the largest first; that of 0 has no meaning."""
    numbers, firsts, sizes = np.unique(component_N, return_index=True, return_counts=True)
    ranks = np.zeros(int(numbers[-1]) + 1, np.intp)
    ranks[numbers[np.lexsort((firsts, -sizes))]] = np.arange(len(numbers))
    return ranks
