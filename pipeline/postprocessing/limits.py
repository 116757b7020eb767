"""What post-processing may not do: touch certain labels, or change more than it did on validation.

Axes: I, J, K = voxel axes.
"""

from collections.abc import Collection, Mapping
from math import inf

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.unsignedinteger]

ROUNDING = 1e-9
"""Of a share, what is put down to its being written as text."""


NOT_APPLIED = "post-processing was not applied"
"""What the warning begins with where a label would change more than it ever did."""


def allow_labels(before_IJK: Labels, after_IJK: Labels, values: Collection[int]) -> Labels:
    """Take back the changes that concern other labels than some.

    A voxel may change only from one of those labels, or background, to another, so that all other
    labels neither gain nor lose a voxel.

    Args:
        before_IJK: `(I, J, K)` label map.
        after_IJK: What it was changed to.
        values: Of the labels that may gain and lose voxels.
    """
    allowed = np.zeros(max(int(before_IJK.max(initial=0)), int(after_IJK.max(initial=0))) + 1, bool)
    allowed[[0, *(value for value in values if value < len(allowed))]] = True
    return np.where(allowed[before_IJK] & allowed[after_IJK], after_IJK, before_IJK)


def change_shares(
    before_IJK: Labels, after_IJK: Labels, labels: Mapping[str, int]
) -> dict[str, float]:
    """Return how many voxels each label gained and lost, over the voxels that it had.

    A label that had none and gained some changed infinitely.

    Args:
        before_IJK: `(I, J, K)` label map.
        after_IJK: What it was changed to.
        labels: Name and value of each.
    """
    changed_IJK = before_IJK != after_IJK
    last = max(labels.values(), default=0)
    moved = np.bincount(before_IJK[changed_IJK], minlength=last + 1)
    gained = np.bincount(after_IJK[changed_IJK], minlength=last + 1)
    shares = {}
    for name, value in labels.items():
        number = int(moved[value] + gained[value])
        had = int(np.count_nonzero(before_IJK == value)) if number else 1
        shares[name] = number / had if had else inf
    return shares


def beyond(shares: Mapping[str, float], largest: Mapping[str, float]) -> list[str]:
    """Return, for each label that changed more than ever on validation, a sentence about it.

    Args:
        shares: What each label gained and lost.
        largest: The most that each did on validation; labels that are not in it are free.
    """
    return [
        f"{NOT_APPLIED}: it would change {share:.1%} of {name}, "
        f"more than the {largest[name]:.1%} seen on validation"
        for name, share in shares.items()
        if name in largest and share > largest[name] + ROUNDING
    ]
