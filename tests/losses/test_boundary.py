import numpy as np
import pytest
import torch

from pipeline.losses.comparison import compare_classes, compare_regions
from pipeline.losses.losses import boundary_loss, signed_distance_mm, signed_distances_mm
from pipeline.volume import IGNORE_INDEX

SURE = 50.0


def line(values):
    """Class indices along I."""
    return torch.tensor(values).reshape(1, -1, 1, 1)


def sure_of(target, num_classes=2):
    """Logits of a network that says `target`."""
    one_hot = torch.nn.functional.one_hot(target, num_classes).movedim(-1, 1)
    return SURE * one_hot.double()


def test_signed_distance_by_hand():
    mask = np.array([0, 0, 1, 1, 1, 0], bool).reshape(-1, 1, 1)
    found = signed_distance_mm(mask, (2.0, 1.0, 1.0))
    np.testing.assert_allclose(found.ravel(), [4, 2, -2, -4, -2, 2])


def test_signed_distance_follows_the_spacing_of_each_axis():
    mask = np.zeros((5, 5, 5), bool)
    mask[2, 2, 2] = True
    found = signed_distance_mm(mask, (1.0, 2.0, 3.0))
    assert (found[3, 2, 2], found[2, 3, 2], found[2, 2, 3]) == (1, 2, 3)
    assert found[3, 3, 2] == pytest.approx(5**0.5)


@pytest.mark.parametrize("value", [False, True])
def test_no_border_no_distance(value):
    assert not signed_distance_mm(np.full((2, 2, 2), value), (1.0, 1.0, 1.0)).any()


def test_by_hand():
    """Of [0, 0, 1, 1], a network that says [1, 0, 1, 0] gets +2 - 1 mm over 4 voxels."""
    compared = compare_classes(sure_of(line([1, 0, 1, 0])), line([0, 0, 1, 1]))
    assert boundary_loss(compared, (1.0, 1.0, 1.0)).item() == pytest.approx((2 - 1) / 4)
    assert boundary_loss(compared, (3.0, 1.0, 1.0)).item() == pytest.approx(3 * (2 - 1) / 4)


def test_further_errors_cost_more_and_the_truth_is_best():
    truth = line([0, 0, 0, 0, 1, 1])
    said = ([0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1], [0, 1, 0, 0, 1, 1], [1, 0, 0, 0, 1, 1])
    losses = [
        boundary_loss(compare_classes(sure_of(line(s)), truth), (1.0, 1.0, 1.0)).item()
        for s in said
    ]
    assert losses == sorted(losses)
    assert len(set(losses)) == 4


def test_ignored_voxels_do_not_count():
    truth = line([0, 0, 1, IGNORE_INDEX])
    losses = [
        boundary_loss(compare_classes(sure_of(line(said)), truth), (1.0, 1.0, 1.0)).item()
        for said in ([0, 0, 1, 0], [0, 0, 1, 1])
    ]
    assert losses[0] == losses[1] == pytest.approx(-1 / 3)


def test_regions_count_from_the_first():
    table = torch.tensor([[False, True]])
    logits = torch.full((1, 1, 4, 1, 1), SURE).double()
    compared = compare_regions(logits, line([0, 0, 1, 1]), table)
    assert boundary_loss(compared, (1.0, 1.0, 1.0)).item() == pytest.approx((2 + 1 - 1 - 2) / 4)


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.7, 1.3, 5.0)])
def test_distances_of_many_masks_at_once_are_scipys(spacing_mm):
    """One mask is empty, one is full, one has a single voxel; the others are scattered."""
    masks = np.random.default_rng(0).random((2, 3, 7, 9, 5)) < 0.1
    masks[0, 0], masks[0, 1], masks[0, 2] = False, True, False
    masks[0, 2, 1, 8, 0] = True
    found = signed_distances_mm(torch.from_numpy(masks), spacing_mm)
    expected = [[signed_distance_mm(mask, spacing_mm) for mask in each] for each in masks]
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, np.array(expected), rtol=1e-6)
