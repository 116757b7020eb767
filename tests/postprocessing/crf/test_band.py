import numpy as np
import pytest
import torch

from pipeline.postprocessing.crf.band import (
    LEAST_PROBABILITY,
    NO_CLASS,
    Band,
    band_of_probabilities,
    band_of_uncertain,
    class_indices,
    first_largest,
    index_type,
    num_columns,
)
from pipeline.transforms import CERTAIN, Uncertain

CPU = torch.device("cpu")


def uncertain(voxels, classes, shares):
    return Uncertain(
        np.array(voxels, np.int64), np.array(classes, np.int16), np.array(shares, np.float16)
    )


def random_shares(num_classes, shape=(7, 5, 6), scale=3.0):
    rng = np.random.default_rng(num_classes)
    logits = scale * rng.normal(size=(num_classes, *shape))
    logits[0, :2] += 15
    return torch.softmax(torch.tensor(logits, dtype=torch.float32), dim=0)


# --- From uncertain voxels ---


def test_few_classes_are_odds_against_the_background_by_hand():
    """Three labels, so four slots, of which the last is empty."""
    band = band_of_uncertain(
        uncertain([3, 8], [[2, 0], [1, 3]], [[0.75, 0.25], [0.5, 0.5]]), 4, 9, CPU
    )
    assert band.class_NS is None
    assert band.voxel_N.tolist() == [3, 8]
    least = np.log(LEAST_PROBABILITY)
    low, high = least - np.log(0.25), np.log(3)
    expected = [[low, high, low, -np.inf], [np.log(0.5) - least, 0, np.log(0.5) - least, -np.inf]]
    np.testing.assert_allclose(band.log_NS, expected, rtol=1e-6)


def test_many_classes_keep_their_slots_by_hand():
    """What is not there at all is no class; what is nearly 0 counts as 1/100000."""
    found = uncertain([3, 8], [[20, 0, 4], [11, 0, 0]], [[0.75, 0.25, 1e-6], [1, 0, 0]])
    band = band_of_uncertain(found, 30, 9, CPU)
    assert band.class_NS.tolist() == [[20, 0, 4], [11, NO_CLASS, NO_CLASS]]
    expected = np.log([[0.75, 0.25, LEAST_PROBABILITY], [1, 1, 1]])
    expected[1, 1:] = -np.inf
    np.testing.assert_allclose(band.log_NS, expected, rtol=1e-6)


@pytest.mark.parametrize(("num_classes", "is_dense"), [(2, True), (8, True), (9, False)])
def test_up_to_eight_classes_have_a_slot_each(num_classes, is_dense):
    band = band_of_uncertain(uncertain([0], [[1, 0]], [[0.5, 0.5]]), num_classes, 9, CPU)
    assert (band.class_NS is None) == is_dense
    assert band.log_NS.shape[1] == (num_columns(num_classes - 1) if is_dense else 2)


def test_large_volumes_have_longer_indices():
    found = uncertain([3], [[1, 0]], [[0.5, 0.5]])
    assert band_of_uncertain(found, 2, 2**31 - 1, CPU).voxel_N.dtype == torch.int32
    assert band_of_uncertain(found, 2, 2**31, CPU).voxel_N.dtype == torch.int64


# --- From probabilities ---


@pytest.mark.parametrize("num_classes", [2, 5, 8, 12])
@pytest.mark.parametrize("at_once", [1, 70, 2**20])
def test_the_band_is_where_no_class_is_certain(monkeypatch, num_classes, at_once):
    monkeypatch.setattr("pipeline.postprocessing.crf.band._AT_ONCE", at_once)
    shares = random_shares(num_classes)
    band, class_IJK = band_of_probabilities(shares)
    flat = shares.reshape(num_classes, -1).numpy()
    is_uncertain = flat.max(axis=0) < CERTAIN
    assert 0.1 < is_uncertain.mean() < 0.9
    np.testing.assert_array_equal(band.voxel_N, np.flatnonzero(is_uncertain))
    np.testing.assert_array_equal(class_IJK.reshape(-1), flat.argmax(axis=0))
    log_NC = np.log(np.maximum(flat[:, is_uncertain], LEAST_PROBABILITY)).T
    if num_classes <= 8:
        expected = log_NC[:, 1:] - log_NC[:, :1]
        np.testing.assert_allclose(band.log_NS[:, : num_classes - 1], expected, atol=1e-5)
        assert (band.log_NS[:, num_classes - 1 :] == -np.inf).all()
    else:
        assert band.log_NS.shape == (is_uncertain.sum(), 4)
        order = np.argsort(-flat[:, is_uncertain].T, axis=1)[:, :4]
        np.testing.assert_array_equal(band.class_NS, order)
        np.testing.assert_allclose(
            band.log_NS, np.take_along_axis(log_NC, order, axis=1), atol=1e-5
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_precisions_are_read(dtype):
    shares = random_shares(3)
    band, class_IJK = band_of_probabilities(shares.to(dtype))
    expected, expected_IJK = band_of_probabilities(shares.to(dtype).float())
    assert torch.equal(class_IJK, expected_IJK)
    assert band.log_NS.dtype == torch.float32
    assert len(set(band.voxel_N.tolist()) ^ set(expected.voxel_N.tolist())) <= 1


def test_of_more_than_eight_classes_four_are_kept():
    band, _ = band_of_probabilities(random_shares(9))
    assert band.class_NS.shape[1] == 4
    many = uncertain([0], [[3, 1, 0, 8, 2]], [[0.4, 0.3, 0.2, 0.06, 0.04]])
    assert band_of_uncertain(many, 9, 9, CPU).class_NS.tolist() == [[3, 1, 0, 8]]


def test_nothing_uncertain_is_an_empty_band():
    shares = torch.zeros(3, 4, 5, 6)
    shares[1] = 1
    band, class_IJK = band_of_probabilities(shares)
    assert len(band.voxel_N) == 0
    assert (class_IJK == 1).all()


# --- What a band can do ---


def test_slots_with_classes_weigh_as_those_without():
    """The background has a slot of odds 1, and empty slots have no class."""
    band, _ = band_of_probabilities(random_shares(4))
    sparse = band.with_classes()
    assert sparse.with_classes() is sparse
    assert torch.equal(sparse.voxel_N, band.voxel_N)
    assert sparse.class_NS[0].tolist() == [0, 1, 2, 3, NO_CLASS]
    shares_NS = torch.softmax(sparse.log_NS, dim=1)
    full = torch.cat([torch.zeros(len(band.voxel_N), 1), band.log_NS], dim=1)
    np.testing.assert_allclose(shares_NS, torch.softmax(full, dim=1))
    flat = random_shares(4).reshape(4, -1)[:, band.voxel_N.long()].T
    np.testing.assert_allclose(shares_NS[:, :4], flat, atol=1e-4)
    assert torch.equal(band.most_probable(shares_NS[:, 1:]), sparse.most_probable(shares_NS))


@pytest.mark.parametrize("at_once", [2, 2**20])
def test_the_lowest_class_wins_a_tie(monkeypatch, at_once):
    monkeypatch.setattr("pipeline.postprocessing.crf.band._AT_ONCE", at_once)
    voxel_N = torch.arange(4, dtype=torch.int32)
    shares = torch.tensor([[0.5, 0.25], [0.25, 0.25], [0.25, 0.5], [0.375, 0.375]])
    # The background has 0.25, 0.5, 0.25 and 0.25.
    assert Band(voxel_N, None, shares).most_probable(shares).tolist() == [1, 0, 2, 1]
    half = torch.tensor([[0.5, 0.0], [0.5, 0.5], [0.25, 0.25], [0.0, 1.0]])
    assert Band(voxel_N, None, half).most_probable(half).tolist() == [0, 1, 0, 2]
    classes = torch.tensor([[9, 4], [4, 9], [0, 300], [7, NO_CLASS]], dtype=torch.int16)
    tied = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.25, 0.75], [1.0, 0.0]])
    assert Band(voxel_N, classes, tied).most_probable(tied).tolist() == [4, 4, 300, 7]


@pytest.mark.parametrize("shape", [(7, 5, 6), (1, 40, 3), (300, 1, 2)])
@pytest.mark.parametrize("at_once", [11, 2**20])
def test_indices_along_the_axes(monkeypatch, shape, at_once):
    monkeypatch.setattr("pipeline.postprocessing.crf.band._AT_ONCE", at_once)
    voxel_N = torch.arange(0, int(np.prod(shape)), 3, dtype=torch.int32)
    index_N3 = Band(voxel_N, None, torch.empty(len(voxel_N), 1)).indices(shape)
    assert index_N3.dtype == torch.int16
    expected = np.stack(np.unravel_index(voxel_N.numpy(), shape), axis=1)
    np.testing.assert_array_equal(index_N3, expected)


# --- Helpers ---


def test_class_indices_of_label_values():
    labels_IJK = np.array([[[0, 700], [5, 0]]], np.uint16)
    found = class_indices(labels_IJK, [0, 700, 5])
    assert found.tolist() == [[[0, 1], [2, 0]]]
    assert found.dtype == torch.uint8


@pytest.mark.parametrize("value", [3, 6, 200])
def test_a_value_that_is_no_labels_is_named(value):
    labels_IJK = np.array([[[0, 5], [value, 255]]], np.uint8)
    with pytest.raises(ValueError, match=f"has the value {value}, which is no label's"):
        class_indices(labels_IJK, [0, 5, 20])


@pytest.mark.parametrize(
    ("num_classes", "dtype"), [(2, torch.uint8), (254, torch.uint8), (255, torch.int16)]
)
def test_the_index_type_holds_one_more_for_the_band(num_classes, dtype):
    assert index_type(num_classes) == dtype
    assert torch.iinfo(dtype).max >= num_classes


def test_first_largest_by_hand():
    index, most = first_largest(torch.tensor([[1.0, 2, 5], [1, 3, 4], [0, 3, 5]]))
    assert (index.tolist(), most.tolist()) == ([0, 1, 0], [1, 3, 5])


def test_columns_are_powers_of_two():
    numbers = [0, 1, 2, 3, 4, 5, 8, 9]
    assert [num_columns(number) for number in numbers] == [1, 1, 2, 4, 4, 8, 8, 16]
