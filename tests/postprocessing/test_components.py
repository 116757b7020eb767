import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from pipeline.postprocessing.components import count_voxels, find_components, label_boxes

label_maps = hnp.arrays(np.uint8, (5, 4, 3), elements=st.sampled_from([0, 0, 1, 2, 255]))
orders = st.sampled_from(["C", "F"])


def by_scipy(labels, values):
    """Return label, voxels, first and last index and centroid of each component, sorted."""
    rows = []
    for value in values:
        numbers, count = ndimage.label(labels == value, np.ones((3, 3, 3)))
        for number in range(1, count + 1):
            where = np.argwhere(numbers == number)
            ends = (where.min(0), where.max(0), where.mean(0).round(9))
            rows.append((value, len(where), *(tuple(end.tolist()) for end in ends)))
    return sorted(rows)


def as_rows(found):
    if found is None:
        return []
    columns = (found.first_N3, found.last_N3, found.centroid_N3.round(9))
    return sorted(
        (
            int(found.label_N[n]),
            int(found.num_voxels_N[n]),
            *(tuple(c[n].tolist()) for c in columns),
        )
        for n in range(1, len(found.label_N))
    )


@settings(deadline=None)
@given(label_maps, orders, st.sets(st.sampled_from([1, 2, 255]), min_size=1))
def test_the_table_is_that_of_a_loop_over_labels(labels, order, values):
    found = find_components(np.asarray(labels, order=order), values)
    assert as_rows(found) == by_scipy(labels, values)


def test_by_hand():
    labels = np.zeros((6, 5, 5), np.uint16)
    labels[2:4, 1, 1:4] = 300
    labels[4, 2, 4] = 300  # At a corner of the one before.
    labels[3, 2, 2] = 7
    labels[0, 0, 0] = 9
    found = find_components(labels, {7, 300})
    assert found.box == (slice(2, 5), slice(1, 3), slice(1, 5))
    assert as_rows(found) == [
        (7, 1, (3, 2, 2), (3, 2, 2), (3, 2, 2)),
        (300, 7, (2, 1, 1), (4, 2, 4), tuple(np.round([19 / 7, 8 / 7, 16 / 7], 9).tolist())),
    ]
    assert found.label_N[0] == 0
    assert (found.label_N[found.numbers_IJK] == np.where(labels == 9, 0, labels)[found.box]).all()


def test_labels_that_are_not_there():
    labels = np.ones((2, 2, 2), np.uint8)
    assert find_components(labels, {2, 3}) is None
    assert find_components(labels, ()) is None
    assert find_components(np.zeros_like(labels), {1}) is None


@pytest.mark.parametrize("order", ["C", "F"])
def test_of_equal_components_those_with_the_smallest_index_come_first(order):
    labels = np.zeros((6, 6, 6), np.uint8)
    labels[5, 1, 1] = labels[3, 5, 1] = labels[3, 1, 5] = 1
    labels[1, 3, 3:5] = 1
    found = find_components(np.asarray(labels, order=order), {1})
    everything = np.flatnonzero(found.label_N == 1)
    expected = [(1, 3, 3), (3, 1, 5), (3, 5, 1), (5, 1, 1)]
    for number in range(1, 6):
        chosen = found.largest(everything, number)
        assert sorted(map(tuple, found.first_N3[chosen].tolist())) == sorted(expected[:number])


@pytest.mark.parametrize("axis", [1, 2])
def test_the_first_voxel_is_not_the_corner_of_the_box(axis):
    """A line from I, J, K = 0, 0, 9 to 9, 0, 0, and one that begins between these ends."""
    labels = np.zeros((10, 10, 10), np.uint8)
    in_plane = labels if axis == 2 else labels.swapaxes(1, 2)
    for step in range(10):
        in_plane[step, 0, 9 - step] = 1
        in_plane[step, step, 4] = 1
    found = find_components(labels, {1})
    (chosen,) = found.largest(np.flatnonzero(found.label_N == 1), 1)
    assert found.num_voxels_N[1:].tolist() == [10, 10]
    assert found.last_N3[chosen][[0, axis]].tolist() == [9, 4]


@settings(deadline=None)
@given(label_maps, orders, st.randoms())
def test_removing_writes_background_and_nothing_else(labels, order, random):
    labels = np.asarray(labels, order=order)
    found = find_components(labels, {1, 255})
    if found is None:
        return
    removed = np.array([False] + [random.random() < 0.5 for _ in found.label_N[1:]])
    cleaned = labels.copy(order="K")
    found.remove(cleaned, removed)
    numbers = np.zeros(labels.shape, np.int64)
    numbers[found.box] = found.numbers_IJK
    np.testing.assert_array_equal(cleaned, np.where(removed[numbers], 0, labels))


@settings(deadline=None)
@given(label_maps, orders)
def test_voxels_and_boxes_of_labels(labels, order):
    labels = np.asarray(labels, order=order)
    values = (255, 1, 3)
    assert count_voxels(labels, values) == {v: np.count_nonzero(labels == v) for v in values}
    boxes = label_boxes(labels, values)
    assert list(boxes) == [value for value in (1, 255) if (labels == value).any()]
    for value, box in boxes.items():
        where = np.argwhere(labels == value)
        assert [(b.start, b.stop - 1) for b in box] == list(
            zip(where.min(0).tolist(), where.max(0).tolist(), strict=True)
        )


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("length", range(1, 12))
def test_one_voxel_wide(axis, length):
    shape = [1, 1, 1]
    shape[axis] = length
    labels = (np.arange(length, dtype=np.uint8).reshape(shape) + 1) % 2
    found = find_components(labels, {1})
    assert len(found.label_N) - 1 == (length + 1) // 2
