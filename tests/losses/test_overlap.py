import pytest
import torch
from monai.losses import DiceLoss, GeneralizedDiceLoss, TverskyLoss

from pipeline.losses.comparison import compare_classes, compare_regions
from pipeline.losses.losses import (
    Sums,
    dice_loss,
    focal_tversky_loss,
    generalised_dice_loss,
    iou_loss,
    sum_overlap,
    tversky_loss,
)

MONAI = {"to_onehot_y": True, "softmax": True, "include_background": False, "batch": True}
TABLE = torch.tensor([[False, True, True], [False, False, True]])


def sums(both, predicted, true, annotated=None):
    annotated = [True] * len(both) if annotated is None else annotated
    return Sums(*map(torch.tensor, (both, predicted, true, annotated)))


def test_by_hand():
    """Half of 4 predicted voxels hit 3 true ones, with one miss."""
    one = sums([2.0], [4.0], [3.0])
    assert dice_loss(one).item() == pytest.approx(1 - 4 / 7, abs=1e-5)
    assert iou_loss(one).item() == pytest.approx(1 - 2 / 5, abs=1e-5)
    assert tversky_loss(one, 0.3, 0.7).item() == pytest.approx(1 - 2 / (2 + 0.6 + 0.7), abs=1e-5)
    focal = focal_tversky_loss(one, 0.3, 0.7, 4 / 3).item()
    assert focal == pytest.approx((1 - 2 / 3.3) ** 0.75, abs=1e-5)


def test_generalised_dice_by_hand():
    two = sums([2.0, 8.0], [4.0, 9.0], [3.0, 10.0])
    expected = 1 - 2 * (2 / 9 + 8 / 100) / (7 / 9 + 19 / 100)
    assert generalised_dice_loss(two).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("size", [1.0, 1e3, 1e6])
def test_generalised_dice_does_not_shrink_with_the_size_of_the_patch(size):
    """A class that is missed is lost, however large; the bare 1 / size^2 drowns in smoothing."""
    half = sums([size, size], [2 * size, 2 * size], [2 * size, 2 * size])
    missed = sums([0.0, 0.0], [size, 0.0], [size, size])
    assert generalised_dice_loss(half).item() == pytest.approx(0.5, abs=1e-4)
    assert generalised_dice_loss(missed).item() == pytest.approx(1, abs=1e-4)


def test_generalised_dice_punishes_what_is_found_where_no_region_is():
    assert generalised_dice_loss(sums([0.0], [5.0], [0.0])).item() == pytest.approx(1, abs=1e-4)
    assert generalised_dice_loss(sums([0.0], [0.0], [0.0])).item() == 0


def test_classes_that_nobody_annotates_are_left_out_of_the_mean():
    alone = dice_loss(sums([2.0], [4.0], [3.0]))
    assert dice_loss(sums([2.0, 0.0], [4.0, 0.0], [3.0, 0.0], [True, False])) == alone
    assert dice_loss(sums([0.0], [0.0], [0.0], [False])) == 0


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (dice_loss, DiceLoss(**MONAI)),
        (iou_loss, DiceLoss(**MONAI, jaccard=True)),
        (lambda s: tversky_loss(s, 0.2, 0.9), TverskyLoss(**MONAI, alpha=0.2, beta=0.9)),
    ],
)
def test_equals_monai(ours, theirs, num_classes, batch):
    """With 2 classes in the truth, the third output's class is absent from the batch."""
    logits, target = batch(num_classes=num_classes)
    ours = ours(sum_overlap(compare_classes(logits, target)).foreground)
    assert ours.item() == pytest.approx(theirs(logits, target[:, None]).item(), rel=1e-6)


@pytest.mark.parametrize("num_classes", [1, 2, 3])
def test_generalised_dice_equals_monai(num_classes, batch):
    logits, target = batch(num_classes=num_classes)
    options = MONAI | {"include_background": True, "smooth_nr": 1e-12, "smooth_dr": 1e-12}
    theirs = GeneralizedDiceLoss(**options)(logits, target[:, None])
    ours = generalised_dice_loss(sum_overlap(compare_classes(logits, target)))
    # MONAI keeps its weights in float32, ours follow the logits.
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)


def test_regions_equal_monai(batch):
    logits, target = batch(num_outputs=2)
    truth = torch.stack([target > 0, target == 2], dim=1)
    theirs = DiceLoss(sigmoid=True, batch=True)(logits, truth)
    ours = dice_loss(sum_overlap(compare_regions(logits, target, TABLE)))
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)


def test_the_slope_at_a_perfect_prediction_is_finite():
    """The bare power 1 / gamma has an infinite one there."""
    predicted = torch.tensor([3.0], requires_grad=True)
    perfect = Sums(predicted, predicted, torch.tensor([3.0]), torch.tensor([True]))
    loss = focal_tversky_loss(perfect, 0.3, 0.7, 4 / 3)
    loss.backward()
    assert loss == 0
    assert torch.isfinite(predicted.grad).all()
