"""Weights that let rare classes count as much as common ones.

Axes: C = class, background first.
"""

import math
from collections.abc import Sequence

import torch

from pipeline.transforms import Fingerprint

OFFSET = 1.02
"""Bounds the weights: a class of no voxel gets 50, one of all voxels 1.4."""


def class_shares(fingerprint: Fingerprint, values: Sequence[int]) -> tuple[float, ...]:
    """Return about which share of the training cases' voxels each class has.

    A label's share is its median volume over that of an image, times the share of cases that have
    it; background has the rest.

    Args:
        fingerprint: Of the training cases.
        values: Label value of each class, background 0 first.
    """
    image_ml = math.prod(fingerprint.shape) * math.prod(fingerprint.spacing_mm) / 1000
    whole_ml = image_ml * fingerprint.num_cases
    total_ml = {label.value: label.num_cases * label.volume_ml[1] for label in fingerprint.labels}
    shares = [min(total_ml.get(value, 0.0) / whole_ml, 1.0) for value in values[1:]]
    return (max(1 - sum(shares), 0.0), *shares)


def weights_from_shares(shares_C: Sequence[float] | torch.Tensor) -> torch.Tensor:
    """Return the weight of each class: 1 / log(1.02 + share), which stays bounded.

    Source:
        Paszke et al., ENet, 2016, arXiv:1606.02147.
    """
    return 1 / torch.log(OFFSET + torch.as_tensor(shares_C))
