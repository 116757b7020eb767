import pytest
import torch
from monai.losses import FocalLoss
from torch.nn import functional

from pipeline.losses.comparison import compare_classes, compare_regions
from pipeline.losses.losses import cross_entropy, focal_loss, weighted_cross_entropy
from pipeline.volume import IGNORE_INDEX

TABLE = torch.tensor([[False, True, True], [False, False, True]])
WEIGHTS = torch.tensor([[1.0, 0.5], [1.0, 2.0], [1.0, 7.0]])


def test_cross_entropy_equals_torch(batch):
    logits, target = batch()
    target[0, 0] = IGNORE_INDEX
    expected = functional.cross_entropy(logits, target, ignore_index=IGNORE_INDEX)
    torch.testing.assert_close(cross_entropy(compare_classes(logits, target)), expected)


def test_of_regions_is_the_mean_over_all_their_voxels(batch):
    logits, target = batch(num_outputs=2)
    truth = torch.stack([target > 0, target == 2], dim=1).double()
    expected = functional.binary_cross_entropy_with_logits(logits, truth)
    torch.testing.assert_close(cross_entropy(compare_regions(logits, target, TABLE)), expected)


def test_focal_by_hand():
    """Truth has probability 3/4: (1/4)^2 * -log(3/4)."""
    logits = torch.tensor([1.0, 3.0]).log().reshape(1, 2, 1, 1, 1)
    loss = focal_loss(compare_classes(logits, torch.ones(1, 1, 1, 1, dtype=torch.long)), 2.0)
    assert loss.item() == pytest.approx(-torch.tensor(0.75).log().item() / 16, rel=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_equals_monai(gamma, batch):
    """MONAI averages over classes too, of which all but the true one are 0."""
    logits, target = batch()
    theirs = FocalLoss(to_onehot_y=True, use_softmax=True, gamma=gamma)(logits, target[:, None])
    ours = focal_loss(compare_classes(logits, target), gamma)
    assert ours.item() == pytest.approx(3 * theirs.item(), rel=1e-6)


def test_focal_of_regions_equals_monai(batch):
    logits, target = batch(num_outputs=2)
    truth = torch.stack([target > 0, target == 2], dim=1).double()
    theirs = FocalLoss(gamma=2.0)(logits, truth)
    ours = focal_loss(compare_regions(logits, target, TABLE), 2.0)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)


def test_weighted_equals_torch(batch):
    logits, target = batch()
    target[1, 2] = IGNORE_INDEX
    expected = functional.cross_entropy(
        logits, target, WEIGHTS[:, 1].double(), ignore_index=IGNORE_INDEX
    )
    torch.testing.assert_close(
        weighted_cross_entropy(compare_classes(logits, target), WEIGHTS), expected
    )


def test_weighted_of_regions_by_hand(batch):
    logits, target = batch(num_outputs=2)
    truth = torch.stack([target > 0, target == 2], dim=1)
    terms = functional.binary_cross_entropy_with_logits(logits, truth.double(), reduction="none")
    weights = torch.ones_like(terms)
    weights[:, 0][truth[:, 0]], weights[:, 1][truth[:, 1]] = 0.5, 2.0
    found = weighted_cross_entropy(compare_regions(logits, target, TABLE), WEIGHTS[:2])
    torch.testing.assert_close(found, (weights * terms).sum() / weights.sum())
