"""What is minimised: losses of voxels, of overlap, and of distance from the true border.

Where regions overlap, each is a question of its own: a voxel counts once for each of them.

Axes: B = patch, C = class or region, X = 1 for exclusive classes and else as C, I, J, K = voxel
axes.

Losses of overlap are computed from three sums for each class, taken over the whole batch: a patch
without a class would else have a Dice of about 0 for it, whatever is predicted.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

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


SMOOTHING = 1e-5
"""Added above and below each fraction, as MONAI does: a class absent from both has no loss."""


@dataclass(frozen=True)
class Sums:
    """Probabilities and voxels of each class, summed over a batch.

    Attributes:
        both_C: Probability in the class's voxels.
        predicted_C: Probability in all voxels.
        true_C: Number of the class's voxels.
        annotated_C: Whether any patch annotates the class.
    """

    both_C: torch.Tensor
    predicted_C: torch.Tensor
    true_C: torch.Tensor
    annotated_C: torch.Tensor

    @property
    def foreground(self) -> "Sums":
        """The same without class 0."""
        return Sums(self.both_C[1:], self.predicted_C[1:], self.true_C[1:], self.annotated_C[1:])


def sum_overlap(comparison: Comparison) -> Sums:
    """Sum over patches and voxels."""
    probability_BCIJK, is_true_BCIJK = comparison.probability_BCIJK, comparison.is_true_BCIJK
    # Products and sums of booleans are slow on a CPU.
    truth_BCIJK = is_true_BCIJK.to(probability_BCIJK.dtype)
    axes = (0, 2, 3, 4)
    return Sums(
        both_C=(probability_BCIJK * truth_BCIJK).sum(axes),
        predicted_C=probability_BCIJK.sum(axes),
        true_C=truth_BCIJK.sum(axes),
        annotated_C=comparison.annotated_C,
    )


def dice_loss(sums: Sums) -> torch.Tensor:
    """Return 1 - Dice, averaged over classes.

    Source:
        Milletari et al., V-Net, 2016, doi:10.1109/3DV.2016.79; without squares, and over the batch,
        as Isensee et al., Nature Methods 18, 2021, doi:10.1038/s41592-020-01008-z.
    """
    total_C = sums.predicted_C + sums.true_C
    return _mean(1 - (2 * sums.both_C + SMOOTHING) / (total_C + SMOOTHING), sums)


def iou_loss(sums: Sums) -> torch.Tensor:
    """Return 1 - intersection over union (Jaccard index), averaged over classes.

    Source:
        Rahman and Wang, Optimizing Intersection-Over-Union in Deep Neural Networks, 2016,
        doi:10.1007/978-3-319-50835-1_22.
    """
    either_C = sums.predicted_C + sums.true_C - sums.both_C
    return _mean(1 - (2 * sums.both_C + SMOOTHING) / (2 * either_C + SMOOTHING), sums)


def tversky_loss(sums: Sums, alpha: float, beta: float) -> torch.Tensor:
    """Return 1 - the Tversky index, averaged over classes.

    Args:
        sums: Of a batch.
        alpha: Weight of false positives.
        beta: Weight of false negatives; with both 0.5 the loss is that of Dice.

    Source:
        Salehi et al., 2017, doi:10.1007/978-3-319-67389-9_44.
    """
    return _mean(_tversky(sums, alpha, beta), sums)


def focal_tversky_loss(sums: Sums, alpha: float, beta: float, gamma: float) -> torch.Tensor:
    """Return 1 - the Tversky index to the power of 1 / `gamma`, averaged over classes.

    Source:
        Abraham and Khan, 2019, doi:10.1109/ISBI.2019.8759329 (which swaps alpha and beta).
    """
    tversky_C = _tversky(sums, alpha, beta)
    # The slope of the power at 0 is infinite where gamma > 1; below 1e-6 it stays what it is there.
    return _mean(tversky_C * tversky_C.clamp(min=1e-6) ** (1 / gamma - 1), sums)


def generalised_dice_loss(sums: Sums) -> torch.Tensor:
    """Return 1 - the Dice of all classes in one fraction, each weighted by 1 / size^2.

    Background takes part where there is one, so that false positives cost something in a batch
    without foreground. Classes that a batch does not have get the largest weight of the others.

    Source:
        Sudre et al., 2017, doi:10.1007/978-3-319-67558-9_28.
    """
    size_C = sums.true_C
    # The weights of the paper times the square of the smallest size: 1 / size^2 of large classes
    # would make both sums so small that the smoothing outweighs them.
    smallest = torch.where(size_C > 0, size_C, torch.inf).min()
    weight_C = torch.where(size_C > 0, (smallest / size_C.clamp(min=1)) ** 2, 1.0)
    both = (weight_C * sums.both_C).sum()
    total = (weight_C * (sums.predicted_C + sums.true_C)).sum()
    return 1 - (2 * both + SMOOTHING) / (total + SMOOTHING)


def _tversky(sums: Sums, alpha: float, beta: float) -> torch.Tensor:
    false_positive_C = sums.predicted_C - sums.both_C
    false_negative_C = sums.true_C - sums.both_C
    errors_C = alpha * false_positive_C + beta * false_negative_C
    return 1 - (sums.both_C + SMOOTHING) / (sums.both_C + errors_C + SMOOTHING)


def _mean(loss_C: torch.Tensor, sums: Sums) -> torch.Tensor:
    """Average over the classes that some patch annotates; 0 if there is none."""
    return (loss_C * sums.annotated_C).sum() / sums.annotated_C.sum().clamp(min=1)


Spacing = tuple[float, float, float]


def boundary_loss(comparison: Comparison, spacing_mm: Spacing) -> torch.Tensor:
    """Return the mean over voxels of probability times signed distance to the border, in mm.

    Probability outside of a structure costs its distance from it, and probability inside earns its
    distance from the border; so the least value is below 0. Background is left out, as is a class
    in a patch that it is absent from or fills. Ignored voxels count as outside when distances are
    measured, and do not count themselves.

    Args:
        comparison: Of a batch.
        spacing_mm: Distance between voxels along I, J, K.

    Source:
        Kervadec et al., Boundary loss for highly unbalanced segmentation, 2019; Medical Image
        Analysis 67, 2021, doi:10.1016/j.media.2020.101851.
    """
    first = int(comparison.has_background)
    probability_BCIJK = comparison.probability_BCIJK[:, first:]
    masks_BCIJK = comparison.is_true_BCIJK[:, first:]
    if masks_BCIJK.is_cuda:
        distance = signed_distances_mm(masks_BCIJK, spacing_mm)
    else:
        distance_BCIJK = np.stack(
            [
                [signed_distance_mm(mask_IJK.numpy(), spacing_mm) for mask_IJK in masks_CIJK]
                for masks_CIJK in masks_BCIJK
            ]
        )
        distance = torch.from_numpy(distance_BCIJK).to(probability_BCIJK)
    counts_BCIJK = comparison.counts_BXIJK.expand_as(probability_BCIJK)
    return (probability_BCIJK * distance).sum() / counts_BCIJK.sum().clamp(min=1)


def signed_distance_mm(
    mask_IJK: npt.NDArray[np.bool_], spacing_mm: Spacing
) -> npt.NDArray[np.float64]:
    """Return each voxel's distance to the nearest voxel of the other side, negative inside, in mm.

    All 0 where one of the sides is empty.
    """
    if mask_IJK.all() or not mask_IJK.any():
        return np.zeros(mask_IJK.shape)
    outside = ndimage.distance_transform_edt(~mask_IJK, spacing_mm)
    inside = ndimage.distance_transform_edt(mask_IJK, spacing_mm)
    return np.asarray(outside - inside, dtype=np.float64)


def signed_distances_mm(masks_BCIJK: torch.Tensor, spacing_mm: Spacing) -> torch.Tensor:
    """Do what `signed_distance_mm` does for many masks, where they are; for GPUs, float32.

    Exact to the rounding of float32. One axis after the other: the least, over all voxels of a
    row, of what they have so far plus the square of their distance along the row. That is far more
    arithmetic than on a CPU, which a GPU does in less time than it takes to bring the masks there.

    Source:
        Felzenszwalb and Huttenlocher, Distance Transforms of Sampled Functions, Theory of Computing
        8, 2012, doi:10.4086/toc.2012.v008a019; the sums over rows without their lower envelopes.
    """
    # Distances to what is inside, then to what is outside.
    sides_2BCIJK = torch.stack([masks_BCIJK, ~masks_BCIJK])
    squared = torch.where(sides_2BCIJK, 0.0, torch.inf)
    for axis, mm in enumerate(spacing_mm, start=-3):
        number = squared.shape[axis]
        along = torch.arange(number, dtype=torch.float32, device=squared.device)
        along = along.reshape(-1, *[1] * (-axis - 1))
        nearest = [(squared + ((along - n) * mm) ** 2).amin(axis) for n in range(number)]
        squared = torch.stack(nearest, dim=axis)
    outside, inside = squared.sqrt()
    is_mixed = sides_2BCIJK.flatten(3).any(dim=3).all(dim=0)[..., None, None, None]
    return torch.where(is_mixed, outside - inside, 0.0)
