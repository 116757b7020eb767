import numpy as np
import pytest
import torch

from pipeline.postprocessing.crf.band import NO_CLASS, Band
from pipeline.postprocessing.crf.groups import group_all, group_near

SHAPE = (9, 8, 7)
NUM_CLASSES, NUM_SLOTS = 12, 4
ORDER = [3, 1, 11, 2, 5, 4, 10, 6, 9, 7]
"""Classes 0 and 8 are not in it: the background, and one that is added last."""


def make_band():
    """Return voxels with one to four of the twelve classes, in any order."""
    rng = np.random.default_rng(0)
    voxel_N = np.sort(rng.choice(int(np.prod(SHAPE)), 60, replace=False))
    class_NS = np.stack([rng.permutation(NUM_CLASSES)[:NUM_SLOTS] for _ in voxel_N])
    class_NS[np.arange(NUM_SLOTS) >= rng.integers(1, NUM_SLOTS + 1, len(voxel_N))[:, None]] = (
        NO_CLASS
    )
    log_NS = np.where(class_NS == NO_CLASS, -np.inf, rng.random(class_NS.shape))
    return Band(
        torch.tensor(voxel_N, dtype=torch.int32),
        torch.tensor(class_NS, dtype=torch.int16),
        torch.tensor(log_NS, dtype=torch.float32),
    )


def make_groups(width=4):
    band = make_band()
    return band, group_near(band, band.indices(SHAPE), [*ORDER, 8], width)


def by_hand(band, group):
    """Return `(N, W)` slot of each column of a group for every voxel of the band, -1 for none."""
    slot_NW = np.full((len(band.voxel_N), group.width), -1)
    for row, classes in enumerate(band.class_NS.tolist()):
        for slot, class_ in enumerate(classes):
            if class_ in group.classes:
                slot_NW[row, group.classes.index(class_)] = slot
    return slot_NW


@pytest.fixture(autouse=True, params=[17, 2**20])
def _at_once(request, monkeypatch):
    monkeypatch.setattr("pipeline.postprocessing.crf.groups._AT_ONCE", request.param)


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (8, [(0,), (3, 1, 11, 2, 5, 4, 10, 6), (9, 7, 8)]),
        (4, [(0,), (3, 1, 11, 2), (5, 4, 10, 6), (9, 7, 8)]),
        (1, [(0,), *((each,) for each in ORDER), (8,)]),
    ],
)
def test_neighbours_share_a_group_and_the_background_has_its_own(width, expected):
    _, groups = make_groups(width)
    assert [group.classes for group in groups] == expected
    powers = {1: 1, 2: 2, 3: 4, 4: 4, 8: 8}
    assert [group.width for group in groups] == [powers[len(group.classes)] for group in groups]


def test_rows_and_slots_are_those_of_the_classes():
    band, groups = make_groups()
    for group in groups:
        slot_NW = by_hand(band, group)
        rows = np.flatnonzero((slot_NW >= 0).any(axis=1))
        np.testing.assert_array_equal(group.row_R, rows)
        expected = np.where(slot_NW[rows] < 0, NUM_SLOTS, slot_NW[rows])
        np.testing.assert_array_equal(group.slot_RW, expected)


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_each_slot_belongs_to_exactly_one_column(width):
    band, groups = make_groups(width)
    times_NS = torch.zeros_like(band.log_NS)
    for group in groups:
        group.add(torch.ones(len(group.row_R), group.width), times_NS)
    np.testing.assert_array_equal(times_NS, (band.class_NS != NO_CLASS).numpy())


def test_columns_are_the_slots_of_their_classes():
    band, groups = make_groups()
    values_NS = torch.rand(band.log_NS.shape, generator=torch.Generator().manual_seed(0)) + 1
    for group in groups:
        slot_NW = by_hand(band, group)[group.row_R.numpy()]
        values = values_NS.numpy()[group.row_R.numpy()]
        expected = np.take_along_axis(values, np.maximum(slot_NW, 0), axis=1) * (slot_NW >= 0)
        np.testing.assert_array_equal(group.read(values_NS), expected)


def test_adding_is_adjoint_to_reading():
    band, groups = make_groups()
    generator = torch.Generator().manual_seed(0)
    for group in groups:
        values_NS = torch.rand(band.log_NS.shape, generator=generator, dtype=torch.float64)
        columns_RW = torch.rand(
            len(group.row_R), group.width, generator=generator, dtype=torch.float64
        )
        added_NS = torch.zeros_like(values_NS)
        group.add(columns_RW, added_NS)
        left, right = (group.read(values_NS) * columns_RW).sum(), (values_NS * added_NS).sum()
        assert float(left) == pytest.approx(float(right))
        before_NS = values_NS.clone()
        group.add(columns_RW, values_NS)
        np.testing.assert_allclose(values_NS, before_NS + added_NS)


def test_boxes_are_the_smallest_around_the_rows():
    band, groups = make_groups(1)
    places = np.stack(np.unravel_index(band.voxel_N.numpy(), SHAPE), axis=1)
    for group in groups:
        rows = places[group.row_R.numpy()]
        ends = list(zip(rows.min(axis=0).tolist(), (rows.max(axis=0) + 1).tolist(), strict=True))
        assert list(group.box) == ends
    assert any(group.box[0] != (0, SHAPE[0]) for group in groups)


def test_classes_that_no_voxel_may_be_of_have_no_group():
    voxel_N = torch.tensor([4, 9], dtype=torch.int32)
    class_NS = torch.tensor([[2, NO_CLASS], [0, 2]], dtype=torch.int16)
    band = Band(voxel_N, class_NS, torch.zeros(2, 2))
    groups = group_near(band, band.indices(SHAPE), [1, 3, 2, 4], 2)
    assert [group.classes for group in groups] == [(0,), (2, 4)]
    assert [group.row_R.tolist() for group in groups] == [[1], [0, 1]]


def test_one_group_of_all_reads_and_adds_the_slots_themselves():
    (group,) = group_all(4, 4, SHAPE)
    assert (group.classes, group.width, group.row_R) == ((1, 2, 3), 4, None)
    assert group.box == ((0, 9), (0, 8), (0, 7))
    values_NS = torch.rand(5, 4)
    assert group.read(values_NS) is values_NS
    before_NS = values_NS.clone()
    group.add(torch.ones(5, 4), values_NS)
    assert torch.equal(values_NS, before_NS + 1)
