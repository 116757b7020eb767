"""What a network said beside what is true, with everything left out that nobody annotated.

Axes: C = class, background first.

Every loss is computed from a `Comparison`, so ignored voxels and partly annotated cases are dealt
with here and nowhere else.

Axes: B = patch, C = class or region (background first where classes exclude each other), I, J, K =
voxel axes; X = 1 where classes exclude each other, else as C.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from pipeline.fingerprint import Fingerprint
from pipeline.transforms import upload
from pipeline.volume import IGNORE_INDEX

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


@dataclass(frozen=True)
class Comparison:
    """Prediction and truth of a batch.

    Attributes:
        probability_BCIJK: Predicted; 0 where it does not count.
        is_true_BCIJK: Whether the voxel belongs to the class; False where it does not count.
        log_likelihood_BXIJK: Log-probability given to the truth; 0 where it does not count.
        counts_BXIJK: What counts, as booleans.
        annotated_C: Whether any patch annotates the class.
        has_background: Whether class 0 is the background.
    """

    probability_BCIJK: torch.Tensor
    is_true_BCIJK: torch.Tensor
    log_likelihood_BXIJK: torch.Tensor
    counts_BXIJK: torch.Tensor
    annotated_C: torch.Tensor
    has_background: bool


def compare_classes(
    logits_BCIJK: torch.Tensor,
    target_BIJK: torch.Tensor,
    annotated_BC: torch.Tensor | None = None,
) -> Comparison:
    """Compare the softmax of logits with classes that exclude each other.

    A class that a patch's case does not annotate is one with background: its probability is added
    to that of background, and it has none of its own.

    Args:
        logits_BCIJK: Background first.
        target_BIJK: int64 class indices; `IGNORE_INDEX` where nobody annotated.
        annotated_BC: `(B, C - 1)` bool, which foreground classes each patch's case annotates; all
            of them if None.

    Source:
        The marginal loss of Shi et al., Medical Image Analysis 70, 2021,
        doi:10.1016/j.media.2021.101979.
    """
    num_classes = logits_BCIJK.shape[1]
    log_probability_BCIJK = functional.log_softmax(logits_BCIJK, dim=1)
    known_BC = None
    # Where the loader left it, on the CPU, asking costs nothing; a GPU would have to catch up.
    if annotated_BC is not None and not annotated_BC.all():
        known_BC = functional.pad(annotated_BC, (1, 0), value=True)
        known_BC = upload(known_BC, logits_BCIJK.device)
        log_probability_BCIJK = _merge_probability(log_probability_BCIJK, known_BC)
        target_BIJK = _merge_target(target_BIJK, known_BC)
    probability_BCIJK = log_probability_BCIJK.exp()
    target_B1IJK = target_BIJK[:, None]
    counts_B1IJK = target_B1IJK != IGNORE_INDEX
    # Most data sets ignore nothing, and products with ones take time on a CPU.
    if target_BIJK.is_cuda or not counts_B1IJK.all():
        true_B1IJK = target_B1IJK.clamp(min=0)
        log_likelihood_B1IJK = log_probability_BCIJK.gather(1, true_B1IJK) * counts_B1IJK
        probability_BCIJK = probability_BCIJK * counts_B1IJK
    else:
        log_likelihood_B1IJK = log_probability_BCIJK.gather(1, target_B1IJK)
    annotated_C = torch.ones(num_classes, dtype=torch.bool, device=logits_BCIJK.device)
    if known_BC is not None:
        probability_BCIJK = probability_BCIJK * known_BC[:, :, None, None, None]
        annotated_C = known_BC.any(dim=0)
    classes_C111 = torch.arange(num_classes, device=target_BIJK.device).reshape(-1, 1, 1, 1)
    return Comparison(
        probability_BCIJK=probability_BCIJK,
        is_true_BCIJK=target_B1IJK == classes_C111,
        log_likelihood_BXIJK=log_likelihood_B1IJK,
        counts_BXIJK=counts_B1IJK,
        annotated_C=annotated_C,
        has_background=True,
    )


def compare_regions(
    logits_BRIJK: torch.Tensor,
    target_BIJK: torch.Tensor,
    table_RC: torch.Tensor,
    annotated_BC: torch.Tensor | None = None,
) -> Comparison:
    """Compare the sigmoid of logits with regions that may overlap.

    A region counts only in patches of cases that annotate all of its classes.

    Args:
        logits_BRIJK: One for each region.
        target_BIJK: int64 class indices; `IGNORE_INDEX` where nobody annotated.
        table_RC: bool, which classes (background first) each region is made of.
        annotated_BC: As in `compare_classes`.
    """
    is_true_BRIJK = table_RC[:, target_BIJK.clamp(min=0)].movedim(0, 1)
    counts_BRIJK = (target_BIJK != IGNORE_INDEX)[:, None].expand_as(is_true_BRIJK)
    annotated_R = torch.ones(len(table_RC), dtype=torch.bool, device=logits_BRIJK.device)
    if annotated_BC is not None:
        missing_B1C = ~upload(annotated_BC, table_RC.device)[:, None]
        known_BR = ~(missing_B1C & table_RC[:, 1:]).any(dim=2)
        counts_BRIJK = counts_BRIJK & known_BR[:, :, None, None, None]
        annotated_R = known_BR.any(dim=0)
    towards_truth_BRIJK = torch.where(is_true_BRIJK, logits_BRIJK, -logits_BRIJK)
    return Comparison(
        probability_BCIJK=logits_BRIJK.sigmoid() * counts_BRIJK,
        is_true_BCIJK=is_true_BRIJK & counts_BRIJK,
        log_likelihood_BXIJK=functional.logsigmoid(towards_truth_BRIJK) * counts_BRIJK,
        counts_BXIJK=counts_BRIJK,
        annotated_C=annotated_R,
        has_background=False,
    )


def _merge_probability(log_probability_BCIJK: torch.Tensor, known_BC: torch.Tensor) -> torch.Tensor:
    """Add the probability of unknown classes to that of background, which is always known."""
    apart_BC = known_BC.clone()
    apart_BC[:, 0] = False
    together_BCIJK = log_probability_BCIJK.masked_fill(apart_BC[:, :, None, None, None], -torch.inf)
    merged_BIJK = together_BCIJK.logsumexp(dim=1)
    return torch.cat([merged_BIJK[:, None], log_probability_BCIJK[:, 1:]], dim=1)


def _merge_target(target_BIJK: torch.Tensor, known_BC: torch.Tensor) -> torch.Tensor:
    """Make background of unknown classes."""
    class_BC = torch.arange(known_BC.shape[1], device=known_BC.device) * known_BC
    merged_BIJK = class_BC.gather(1, target_BIJK.clamp(min=0).flatten(1)).view_as(target_BIJK)
    return torch.where(target_BIJK == IGNORE_INDEX, target_BIJK, merged_BIJK)
