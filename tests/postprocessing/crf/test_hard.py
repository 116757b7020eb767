import numpy as np
import pytest
from scipy import ndimage

from pipeline.postprocessing.crf.refine import BAND_MM, uncertain_of_labels

SPACING_MM = (1.0, 2.0, 0.5)


def dense(found, num_classes, shape):
    """Return `(C, I, J, K)` probabilities, 0 where a voxel is not in the band."""
    shares = np.zeros((num_classes, int(np.prod(shape))))
    for slot in range(found.index_NK.shape[1]):
        np.add.at(shares, (found.index_NK[:, slot], found.voxel_N), found.probability_NK[:, slot])
    return shares.reshape(num_classes, *shape)


def half_space(axis, shape=(12, 12, 24)):
    """Return a map that is 3 from the middle of an axis on."""
    index = np.indices(shape)[axis]
    return np.where(index >= shape[axis] // 2, 3, 0).astype(np.uint8)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_half_a_space_by_hand(axis):
    """A voxel d mm from the nearest of the other class: d to that, and as far inside its own.

    Odds fall by a factor of e for each third of the band: exp(-2 d 3 / band).
    """
    labels_IJK, step = half_space(axis), SPACING_MM[axis]
    found = uncertain_of_labels(labels_IJK, [0, 3], SPACING_MM, 4.0)
    middle = labels_IJK.shape[axis] // 2
    shares = dense(found, 2, labels_IJK.shape)
    line = np.moveaxis(shares, axis + 1, 1)[:, :, 5, 5]
    in_band = 0
    for away in range(1, 7):
        distance = away * step
        odds = np.exp(-2 * distance * 3 / 4) if distance < 4 else 0
        own = 1 / (1 + odds) if distance < 4 else 0
        in_band += distance < 4
        for place, class_ in ((middle - 1 + away, 1), (middle - away, 0)):
            assert line[class_, place] == pytest.approx(own, rel=1e-3)
            assert line[1 - class_, place] == pytest.approx(own * odds, rel=2e-3)
    assert in_band == {0: 3, 1: 1, 2: 6}[axis]
    is_there = (line > 0).any(axis=0)
    assert is_there.sum() == 2 * np.count_nonzero(np.arange(1, 30) * step < 4)


def scene():
    """Two labels that touch, another beyond the border of the volume, and a lonely voxel."""
    labels_IJK = np.zeros((20, 16, 24), np.uint16)
    labels_IJK[4:10, 3:12, 5:15] = 2
    labels_IJK[10:15, 3:12, 5:15] = 700
    labels_IJK[:3, :4, :9] = 5
    labels_IJK[17, 14, 22] = 9
    return labels_IJK, [0, 2, 5, 9, 700]


@pytest.mark.parametrize("band_mm", [0.6, 2.3, BAND_MM])
def test_only_voxels_closer_to_another_label_than_the_band(band_mm):
    """By distances to all voxels of other labels; the background counts as one of them."""
    labels_IJK, values = scene()
    found = uncertain_of_labels(labels_IJK, values, SPACING_MM, band_mm)
    nearest = np.full(labels_IJK.shape, np.inf)
    for value in values:
        away = ndimage.distance_transform_edt(labels_IJK != value, sampling=SPACING_MM)
        nearest = np.where(labels_IJK == value, nearest, np.minimum(nearest, away))
    expected = np.flatnonzero(nearest < band_mm)
    assert len(expected)
    np.testing.assert_array_equal(found.voxel_N, expected)


def test_probabilities_are_probabilities_and_the_own_label_leads():
    labels_IJK, values = scene()
    found = uncertain_of_labels(labels_IJK, values, SPACING_MM, BAND_MM)
    assert (found.voxel_N.dtype, found.index_NK.dtype) == (np.int64, np.int16)
    assert found.probability_NK.dtype == np.float16
    shares_NK = found.probability_NK.astype(float)
    np.testing.assert_allclose(shares_NK.sum(axis=1), 1, atol=2e-3)
    assert (np.diff(shares_NK, axis=1) <= 0).all(), "the most probable first"
    own_N = np.array(values)[found.index_NK[:, 0]]
    np.testing.assert_array_equal(own_N, labels_IJK.ravel()[found.voxel_N])
    assert (shares_NK[:, 0] > shares_NK[:, 1]).all()


def test_three_labels_at_a_corner_by_hand():
    """The voxel at the corner of 1: 2 is 1 mm away, the background 1 mm, 3 the diagonal."""
    labels_IJK = np.zeros((8, 8, 8), np.uint8)
    labels_IJK[:4, :4], labels_IJK[4:, :4], labels_IJK[4:, 4:] = 1, 2, 3
    found = uncertain_of_labels(labels_IJK, [0, 1, 2, 3], (1.0, 1.0, 1.0), 3.0)
    shares = dense(found, 4, labels_IJK.shape)[:, 3, 3, 4]
    # To the background at (3, 4), to 2 at (4, 3), to 3 at (4, 4); its own at -1 mm.
    weights = np.exp(-np.array([1, -1, 1, np.sqrt(2)]))
    np.testing.assert_allclose(shares, weights / weights.sum(), rtol=2e-3)


def test_the_border_of_the_volume_is_no_boundary():
    """A label in a corner of the volume: certain in the corner itself."""
    labels_IJK = np.zeros((12, 12, 12), np.uint8)
    labels_IJK[:6, :6, :6] = 1
    found = uncertain_of_labels(labels_IJK, [0, 1], (1.0, 1.0, 1.0), 3.0)
    shares = dense(found, 2, labels_IJK.shape).sum(axis=0)
    assert not shares[:3, :3, :3].any(), "4 mm and more from the background"
    assert (shares[4, :5, :5] > 0).all()


@pytest.mark.parametrize("values", [[0], [0, 1], [0, 1, 2]])
@pytest.mark.parametrize("value", [0, 1])
def test_one_label_everywhere_has_no_boundary(values, value):
    if value not in values:
        values = [*values, value]
    labels_IJK = np.full((5, 4, 3), value, np.uint8)
    found = uncertain_of_labels(labels_IJK, values, SPACING_MM, BAND_MM)
    assert (found.voxel_N.shape, found.voxel_N.dtype) == ((0,), np.int64)
    top_k = len(values)
    assert (found.index_NK.shape, found.index_NK.dtype) == ((0, top_k), np.int16)
    assert (found.probability_NK.shape, found.probability_NK.dtype) == ((0, top_k), np.float16)


def test_two_labels_without_background():
    labels_IJK = np.where(half_space(0) > 0, 3, 1).astype(np.uint8)
    found = uncertain_of_labels(labels_IJK, [0, 1, 3], SPACING_MM, 2.5)
    shares = dense(found, 3, labels_IJK.shape)
    assert not shares[0].any()
    assert shares[1, 5, 0, 0] == pytest.approx(1 / (1 + np.exp(-2 * 3 / 2.5)), rel=1e-3)


def test_of_many_labels_the_nearest_four_are_kept():
    labels_IJK = np.arange(12, dtype=np.uint8).reshape(12, 1, 1)
    found = uncertain_of_labels(labels_IJK, list(range(12)), (1.0, 1.0, 1.0), 20.0)
    assert found.index_NK.shape == (12, 4)
    assert found.index_NK[0].tolist() == [0, 1, 2, 3]
    assert set(found.index_NK[6].tolist()) >= {5, 6, 7}


@pytest.mark.parametrize("band_mm", [0, -1, float("nan"), float("inf")])
def test_a_band_without_width_is_refused(band_mm):
    with pytest.raises(ValueError, match="wider than 0 mm"):
        uncertain_of_labels(np.zeros((2, 2, 2), np.uint8), [0, 1], SPACING_MM, band_mm)
