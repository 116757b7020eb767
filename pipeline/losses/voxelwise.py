"""Losses that look at each voxel alone, and average over those that count.

Where regions overlap, each is a question of its own: a voxel counts once for each of them.

Axes: B = patch, C = class or region, X = 1 for exclusive classes and else as C, I, J, K = voxel
axes.
"""

import torch

from pipeline.losses.comparison import Comparison


def cross_entropy(comparison: Comparison) -> torch.Tensor:
    """Return the mean of -log(probability of the truth); 0 if nothing counts."""
    return -comparison.log_likelihood_BXIJK.sum() / comparison.counts_BXIJK.sum().clamp(min=1)


def focal_loss(comparison: Comparison, gamma: float) -> torch.Tensor:
    """Return the cross-entropy with each voxel weighted by (1 - probability of the truth)^gamma.

    Source:
        Lin et al., Focal Loss for Dense Object Detection, 2017, doi:10.1109/ICCV.2017.324.
    """
    log_likelihood_BXIJK = comparison.log_likelihood_BXIJK
    # expm1 keeps what is left of 1 where the truth is all but certain; the floor keeps the slope
    # of a power below 1 finite where nothing is left.
    doubt_BXIJK = (-torch.expm1(log_likelihood_BXIJK)).clamp(min=1e-12)
    loss_BXIJK = -(doubt_BXIJK**gamma) * log_likelihood_BXIJK
    return loss_BXIJK.sum() / comparison.counts_BXIJK.sum().clamp(min=1)


def weighted_cross_entropy(comparison: Comparison, weight_C2: torch.Tensor) -> torch.Tensor:
    """Return the weighted mean of -log(probability of the truth); 0 if nothing counts.

    Args:
        comparison: Of a batch.
        weight_C2: Weights of a voxel outside and inside of each class. Where classes exclude each
            other only the second counts: that of the class that the voxel has.
    """
    outside_C111, inside_C111 = weight_C2.to(comparison.log_likelihood_BXIJK).T[
        ..., None, None, None
    ]
    weight_BXIJK = torch.where(comparison.is_true_BCIJK, inside_C111, outside_C111)
    if comparison.has_background:
        weight_BXIJK = (comparison.is_true_BCIJK * inside_C111).sum(dim=1, keepdim=True)
    weight_BXIJK = weight_BXIJK * comparison.counts_BXIJK
    loss = -(weight_BXIJK * comparison.log_likelihood_BXIJK).sum()
    total = weight_BXIJK.sum()
    # Whatever is summed over nothing is 0.
    return loss / torch.where(total > 0, total, 1)
