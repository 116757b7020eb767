"""Losses that read off how much of a class's voxels prediction and truth have in common.

All are computed from three sums for each class, taken over the whole batch: a patch without a
class would else have a Dice of about 0 for it, whatever is predicted.

Axes: C = class or region.
"""

from dataclasses import dataclass

import torch

from pipeline.losses.comparison import Comparison

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
