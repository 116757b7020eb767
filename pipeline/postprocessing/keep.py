"""Which components of each label to keep, however they are found.

Needs nothing but numpy and scipy, since exported bundles carry this module with them.

Axes: I, J, K = voxel axes; N counts the voxels of one label, in the order of their indices.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

VOLUME_ROUNDING = 1e-6
"""Relative shortfall of a volume that is put down to rounding: affines are stored as float32."""

Labels = npt.NDArray[np.unsignedinteger]
FindComponents = Callable[[npt.NDArray[np.bool_]], npt.NDArray[np.integer]]
"""Numbers the components of a mask, from 1; voxels outside it get 0."""


class Keep(NamedTuple):
    """What a component of one label must be to be kept: all of this.

    Attributes:
        largest: The largest of its label.
        min_volume_mm3: At least of this volume.
    """

    largest: bool
    min_volume_mm3: float


def keep_components(
    labels_IJK: Labels,
    rules: Mapping[int, Keep],
    voxel_volume_mm3: float,
    find_components: FindComponents,
) -> Labels:
    """Set to background the components that the rules do not keep.

    Each label is cleaned on its own, so structures that touch never merge. Of several largest
    components of equal size, the one that holds the voxel with the smallest index `(i, j, k)`,
    compared in that order, is kept.

    Args:
        labels_IJK: `(I, J, K)` label map; 0 is background.
        rules: By label value; other labels stay as they are.
        voxel_volume_mm3: Volume of one voxel.
        find_components: Finds the components of one label, within the box around it.

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
        component_N = find_components(mask_IJK)[mask_IJK]
        volumes_mm3 = np.bincount(component_N) * voxel_volume_mm3
        kept = volumes_mm3 * (1 + VOLUME_ROUNDING) >= rule.min_volume_mm3
        if rule.largest:
            kept &= np.arange(len(kept)) == _largest(component_N)
        cleaned[box][mask_IJK] = np.where(kept[component_N], value, 0)
    return cleaned


def find_with_scipy(mask_IJK: npt.NDArray[np.bool_]) -> npt.NDArray[np.integer]:
    """Number the components of a mask; voxels that share a corner belong together."""
    components: Any = ndimage.label(mask_IJK, np.ones((3, 3, 3)))[0]
    return np.asarray(components)


def _largest(component_N: npt.NDArray[np.integer]) -> int:
    sizes = np.bincount(component_N)
    is_largest = sizes == sizes.max()
    return int(component_N[np.argmax(is_largest[component_N])])
