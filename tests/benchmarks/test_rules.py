import numpy as np
import pytest

from benchmarks.rules import MIN_VOLUME_MM3, NUM_LABELS, NUM_ORGANS, SIDES, SPACING_MM, label_map


@pytest.fixture(scope="module")
def labels():
    return label_map((64, 64, 80))


def test_the_label_map_has_organs_and_specks(labels):
    assert labels.shape == (64, 64, 80)
    counts = np.bincount(labels.ravel(), minlength=NUM_LABELS + 1)
    assert len(counts) == NUM_LABELS + 1
    assert counts[1 : NUM_ORGANS + 1].min() > 0
    np.testing.assert_array_equal(label_map((64, 64, 80)), labels)


@pytest.mark.parametrize("side", SIDES[1:], ids=lambda side: side.name)
def test_all_sides_give_the_same_mask(labels, side):
    values = side.values
    expected = SIDES[0].clean(labels, values)
    assert 0 < np.count_nonzero(expected) < np.count_nonzero(labels)
    np.testing.assert_array_equal(
        np.where(np.isin(expected, values), expected, 0), side.clean(labels, values)
    )


@pytest.mark.parametrize("side", SIDES, ids=lambda side: side.name)
def test_by_hand(side):
    """Of 0.64 mm^3 a voxel, 78 are too few and 79 enough."""
    assert (MIN_VOLUME_MM3, np.prod(SPACING_MM)) == (50.0, pytest.approx(0.64))
    labels = np.zeros((9, 9, 12), np.uint8)
    labels.ravel()[:79] = 1
    labels[4, 4, 4] = 1
    labels[7:].ravel()[:78] = 11
    expected = np.zeros_like(labels)
    expected.ravel()[:79] = 1
    np.testing.assert_array_equal(side.clean(labels, side.values), expected)
