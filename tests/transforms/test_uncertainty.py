import itertools

import numpy as np
import pytest
import torch

from pipeline.transforms import ProbabilityBlock, Restorer, tiles
from pipeline.transforms.orientation import ras_grid, ras_view
from pipeline.transforms.placement import place
from pipeline.transforms.resample import resample_linear
from pipeline.transforms.uncertainty import CERTAIN, LEAST, UncertainVoxels
from pipeline.volume import Grid

SHAPE = (9, 8, 10)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setitem(tiles.TILE_VOXELS, "cpu", 150)


def placed(affine, spacing_mm=(2.6, 3.1, 2.3)):
    """A crop of all but the outermost voxels."""
    native = Grid(SHAPE, affine)
    ras = ras_grid(native)
    i, j, k = ((1, n - 1) for n in ras.shape)
    return place(native, ras, (i, j, k), spacing_mm)


def random_logits(num_outputs, size, scale=4.0):
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.normal(0, scale, (num_outputs, *size)).astype(np.float32))


def native_shares(probabilities, placement):
    """All outputs of all voxels of the study, `(C, voxels in C order)`, outside the crop NaN."""
    positions = placement.working_positions()
    whole = np.full((len(probabilities), *placement.native.shape), np.nan, np.float32)
    for values_IJK, native_IJK in zip(probabilities, whole, strict=True):
        view = ras_view(native_IJK, placement.native.affine)
        view[placement.crop] = resample_linear(values_IJK, positions).numpy()
    return whole.reshape(len(probabilities), -1)


def collected(probabilities, placement, kind, top_k, cut=None):
    num_values = len(probabilities)
    restorer = Restorer(placement, list(range(num_values)), kind, top_k=top_k)
    n = probabilities.shape[1]
    ends = [0, n] if cut is None else [0, cut, n]
    for a, b in itertools.pairwise(ends):
        start = max(a - 1, 0)
        restorer.add(ProbabilityBlock(probabilities[:, start:b], (start, 0, 0)))
    return restorer.uncertain()


def compare(found, shares, is_uncertain, is_close_call):
    """Voxels, their largest probabilities, and whose those are."""
    assert (found.voxel_N.dtype, found.index_NK.dtype) == (np.int64, np.int16)
    assert found.probability_NK.dtype == np.float16
    assert (np.diff(found.voxel_N) > 0).all()
    expected = set(np.flatnonzero(is_uncertain & ~is_close_call))
    assert expected
    assert set(found.voxel_N) - set(np.flatnonzero(is_close_call)) == expected
    top_k = found.index_NK.shape[1]
    number = min(top_k, len(shares))
    of_voxel_NC = shares.T[found.voxel_N]
    sorted_NC = -np.sort(-of_voxel_NC, axis=1)
    largest_NK = sorted_NC[:, :number]
    probability_NK = found.probability_NK[:, :number].astype(np.float32)
    left_out = (probability_NK == 0) & (largest_NK < LEAST + 1e-6)
    np.testing.assert_allclose(
        probability_NK[~left_out], largest_NK[~left_out], rtol=2**-11 + 1e-5, atol=1e-5
    )
    assert (found.probability_NK[:, number:] == 0).all()
    # Whose: unless another one is as likely.
    gaps_NC = np.pad(-np.diff(sorted_NC), ((0, 0), (1, 1)), constant_values=1)
    is_clear = np.minimum(gaps_NC[:, :-1], gaps_NC[:, 1:])[:, :number] > 1e-3
    is_clear &= ~left_out
    assert is_clear.mean() > 0.5
    order_NK = np.argsort(-of_voxel_NC, axis=1)[:, :number]
    np.testing.assert_array_equal(found.index_NK[:, :number][is_clear], order_NK[is_clear])


@pytest.mark.parametrize("top_k", [1, 3, 6, 8])
def test_labels_equal_looking_at_all_classes_of_all_voxels(any_affine, top_k):
    """Of six classes, so that fewer, as many and more than that are asked for."""
    placement = placed(any_affine)
    probabilities = torch.softmax(random_logits(6, placement.working.shape), dim=0)
    shares = native_shares(probabilities, placement)
    most = np.nan_to_num(shares.max(axis=0), nan=1)
    found = collected(probabilities, placement, "labels", top_k)
    assert 0.2 < (most < CERTAIN).mean() < 0.9
    compare(found, shares, most < CERTAIN, np.abs(most - CERTAIN) < 1e-5)


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_regions_equal_looking_at_all_of_them(affine, top_k):
    placement = placed(affine)
    probabilities = torch.sigmoid(random_logits(3, placement.working.shape) * 2)
    shares = native_shares(probabilities, placement)
    known = np.nan_to_num(shares)
    is_unclear = ((known > 1 - CERTAIN) & (known < CERTAIN)).any(axis=0)
    distance = np.minimum(np.abs(known - CERTAIN), np.abs(known - 1 + CERTAIN)).min(axis=0)
    found = collected(probabilities, placement, "regions", top_k)
    compare(found, shares, is_unclear, distance < 1e-5)


@pytest.mark.parametrize("spacing_mm", [(2.0, 1.5, 4.0), (0.9, 0.8, 1.1), (2.6, 50.0, 2.3)])
@pytest.mark.parametrize("kind", ["labels", "regions"])
def test_several_blocks_tell_what_one_does(kind, spacing_mm):
    placement = placed(np.diag([-2.0, -1.5, 4.0, 1.0]), spacing_mm)
    logits = random_logits(4, placement.working.shape)
    probabilities = torch.softmax(logits, dim=0) if kind == "labels" else torch.sigmoid(logits)
    whole = collected(probabilities, placement, kind, 2)
    parts = collected(probabilities, placement, kind, 2, cut=3)
    assert len(whole.voxel_N) > 50
    np.testing.assert_array_equal(parts.voxel_N, whole.voxel_N)
    np.testing.assert_allclose(parts.probability_NK, whole.probability_NK, atol=2e-3)


def test_hand_values():
    """One voxel of two is sure; the other has three classes, of which the largest two are kept."""
    voxels = UncertainVoxels(Grid((3, 1, 1), np.diag([-1.0, 1.0, 1.0, 1.0])), top_k=2)
    share = torch.tensor([[0.9992, 0.25], [0.0005, 0.125], [0.0003, 0.625]]).reshape(3, 2, 1, 1)
    voxels.add(share, [0, 4, 300], (1, 0, 0), "labels")
    found = voxels.collected()
    # The file runs from right to left: the voxel at 2 along R is its first.
    assert found.voxel_N.tolist() == [0]
    assert found.index_NK.tolist() == [[300, 0]]
    assert found.probability_NK.tolist() == [[0.625, 0.25]]


def test_regions_are_certain_if_each_is_there_or_not():
    voxels = UncertainVoxels(Grid((4, 1, 1), np.eye(4)), top_k=3)
    share = torch.tensor([[0.9995, 0.5, 0.0003, 0.997], [0.9993, 0.9995, 0.0005, 0.1]])
    share = share.reshape(2, 4, 1, 1)
    voxels.add(share, [1, 2], (0, 0, 0), "regions")
    found = voxels.collected()
    assert found.voxel_N.tolist() == [1, 3]
    assert found.index_NK[:, :2].tolist() == [[2, 1], [1, 2]]
    assert (found.probability_NK[:, 2] == 0).all(), "there are only two"


@pytest.mark.parametrize(("most", "is_listed"), [(0.9985, True), (0.998, True), (0.9995, False)])
def test_labels_are_uncertain_below_999_in_1000(most, is_listed):
    voxels = UncertainVoxels(Grid((1, 1, 1), np.eye(4)), top_k=2)
    voxels.add(torch.tensor([most, 1 - most]).reshape(2, 1, 1, 1), [0, 1], (0, 0, 0), "labels")
    assert len(voxels.collected().voxel_N) == is_listed


@pytest.mark.parametrize("kind", ["labels", "regions"])
def test_a_voxel_that_two_parts_hold_is_listed_once(kind):
    """Three voxels in two parts that share the one in the middle."""
    voxels = UncertainVoxels(Grid((3, 1, 1), np.eye(4)), top_k=2)
    share = torch.tensor([[0.75, 0.5, 0.125], [0.25, 0.5, 0.875]]).reshape(2, 3, 1, 1)
    voxels.add(share[:, 1:], [3, 5], (1, 0, 0), kind)
    voxels.add(share[:, :2], [3, 5], (0, 0, 0), kind)
    found = voxels.collected()
    assert found.voxel_N.tolist() == [0, 1, 2]
    assert found.probability_NK.tolist() == [[0.75, 0.25], [0.5, 0.5], [0.875, 0.125]]
    assert sorted(found.index_NK[1].tolist()) == [3, 5]
    assert found.index_NK[[0, 2]].tolist() == [[3, 5], [5, 3]]


@pytest.mark.parametrize(("least", "is_kept"), [(0.9 * LEAST, False), (1.1 * LEAST, True)])
def test_outputs_are_left_out_only_below_least_everywhere(least, is_kept):
    """A class that is the third everywhere: 0 if its largest probability is below `LEAST`."""
    placement = placed(np.eye(4), (1.0, 1.0, 1.0))
    probabilities = torch.empty((3, *placement.working.shape))
    for output, share in enumerate((0.75 - least, 0.25, least)):
        probabilities[output] = share
    found = collected(probabilities, placement, "labels", 3)
    assert len(found.voxel_N) == np.prod(placement.working.shape)
    np.testing.assert_array_equal(found.index_NK[:, :2], [[0, 1]] * len(found.voxel_N))
    expected = np.float16(least) if is_kept else 0
    np.testing.assert_allclose(found.probability_NK[:, 2].astype(float), expected, rtol=2e-3)
    assert (found.index_NK[:, 2] == (2 if is_kept else 0)).all()


def test_parts_in_any_order_come_back_by_voxel():
    voxels = UncertainVoxels(Grid((2, 2, 2), np.eye(4)), top_k=1)
    for voxel in [(1, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0)]:
        voxels.add(torch.full((1, 1, 1, 1), 0.5), [sum(voxel)], voxel, "labels")
    found = voxels.collected()
    assert found.voxel_N.tolist() == [1, 2, 5, 6]
    assert found.index_NK.ravel().tolist() == [1, 1, 2, 2]


@pytest.mark.parametrize("kind", ["labels", "regions"])
def test_nothing_uncertain(kind):
    placement = placed(np.eye(4), (1.0, 1.0, 1.0))
    probabilities = torch.zeros((3, *placement.working.shape))
    probabilities[0] = 1
    found = collected(probabilities, placement, kind, 2)
    assert (found.voxel_N.shape, found.voxel_N.dtype) == ((0,), np.int64)
    assert (found.index_NK.shape, found.index_NK.dtype) == ((0, 2), np.int16)
    assert (found.probability_NK.shape, found.probability_NK.dtype) == ((0, 2), np.float16)


def test_before_any_part_there_is_nothing():
    found = UncertainVoxels(Grid((2, 2, 2), np.eye(4)), top_k=5).collected()
    assert found.voxel_N.shape == (0,)
    assert found.index_NK.shape == found.probability_NK.shape == (0, 5)


def test_they_are_collected_only_if_asked_for():
    placement = placed(np.eye(4))
    probabilities = torch.softmax(random_logits(2, placement.working.shape), dim=0)
    restorer = Restorer(placement, [0, 1])
    restorer.add(ProbabilityBlock(probabilities, (0, 0, 0)))
    assert restorer.uncertain() is None


def test_asking_for_them_changes_no_label():
    placement = placed(np.diag([2.0, -1.5, 4.0, 1.0]))
    block = ProbabilityBlock(
        torch.softmax(random_logits(12, placement.working.shape), dim=0), (0, 0, 0)
    )
    plain, asked = (Restorer(placement, list(range(12)), top_k=k) for k in (0, 3))
    plain.add(block)
    asked.add(block)
    np.testing.assert_array_equal(plain.labels(), asked.labels())
