import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from pipeline.postprocessing.components import find_components, lying_inside, touching
from pipeline.volume import Grid

SPACING = (1.0, 2.0, 3.0)  # Faces across I, J, K have 6, 3 and 2 mm^2.
TUMOUR, LIVER, OTHER = 1, 2, 3
label_maps = hnp.arrays(np.uint8, (5, 4, 4), elements=st.sampled_from([0, 0, 1, 2, 3]))
orders = st.sampled_from(["C", "F"])


def left_of(labels, values, how):
    """Return a mask of what stays of the tumour."""
    found = find_components(labels, values)
    among = np.flatnonzero(found.label_N == TUMOUR)
    liver_N = found.label_N == LIVER
    if how == "inside":
        stays = lying_inside(found, among, liver_N, Grid(labels.shape, np.diag([*SPACING, 1.0])))
    else:
        stays = touching(found, among, liver_N)
    mask = np.zeros(labels.shape, bool)
    mask[found.box] = np.isin(found.numbers_IJK, stays)
    return mask


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    ("faces", "inside"),
    [
        ([(0, -1), (0, 1)], True),  # 12 of 22 mm^2
        ([(1, -1), (1, 1), (2, -1), (2, 1)], False),  # 10
        ([(0, 1), (1, 1), (2, -1)], True),  # 11, just half
        ([(0, 1), (1, 1)], False),  # 9
        ([(0, -1), (2, -1), (2, 1)], False),  # 10
        ([], False),
    ],
)
def test_half_of_the_surface_in_mm2(faces, inside, order):
    labels = np.zeros((5, 5, 5), np.uint8, order=order)
    labels[2, 2, 2] = TUMOUR
    labels[0, 0, 0] = LIVER
    for axis, step in faces:
        where = [2, 2, 2]
        where[axis] += step
        labels[tuple(where)] = LIVER
    assert left_of(labels, {TUMOUR, LIVER}, "inside").any() == inside


def test_other_labels_count_as_surface_whether_known_or_not():
    labels = np.full((3, 3, 3), OTHER, np.uint8)
    labels[1, 1, 1] = TUMOUR
    labels[0, 1, 1] = LIVER
    for values in ({1, 2}, {1, 2, 3}):
        assert not left_of(labels, values, "inside").any()
        labels[2, 1, 1] = LIVER
        assert left_of(labels, values, "inside").any()
        labels[2, 1, 1] = OTHER


def test_what_lies_beyond_the_volume_does_not_count():
    labels = np.zeros((2, 1, 1), np.uint8)
    labels[:, 0, 0] = TUMOUR, LIVER
    assert left_of(labels, {1, 2}, "inside").any()
    assert not left_of(np.full((2, 2, 2), TUMOUR, np.uint8), {1, 2}, "inside").any()


def area_by_hand(mask, liver):
    """Return the area of the mask's faces, and of those that border on the liver, in mm^2."""
    total = shared = 0.0
    for axis, area in enumerate((6.0, 3.0, 2.0)):
        for step in (-1, 1):
            inner = np.argwhere(mask)
            there = inner + np.eye(3, dtype=int)[axis] * step
            known = ((there >= 0) & (there < mask.shape)).all(axis=1)
            there = there[known]
            beyond = ~mask[tuple(there.T)]
            total += area * beyond.sum()
            shared += area * liver[tuple(there[beyond].T)].sum()
    return total, shared


@settings(deadline=None)
@given(label_maps, orders)
def test_inside_agrees_with_counting_faces(labels, order):
    labels[2, 2, 2] = TUMOUR
    numbers, count = ndimage.label(labels == TUMOUR, np.ones((3, 3, 3)))
    expected = np.zeros(labels.shape, bool)
    for number in range(1, count + 1):
        mask = numbers == number
        total, shared = area_by_hand(mask, labels == LIVER)
        expected |= mask & (total > 0) & (2 * shared >= total)
    found = left_of(np.asarray(labels, order=order), {TUMOUR, LIVER}, "inside")
    np.testing.assert_array_equal(found, expected)


@settings(deadline=None)
@given(label_maps, orders, st.booleans())
def test_touching_agrees_with_dilation(labels, order, all_known):
    labels[2, 2, 2] = TUMOUR
    cube = np.ones((3, 3, 3))
    numbers, _ = ndimage.label(labels == TUMOUR, cube)
    touched = np.unique(numbers[ndimage.binary_dilation(labels == LIVER, cube) & (numbers > 0)])
    values = {1, 2, 3} if all_known else {1, 2}
    found = left_of(np.asarray(labels, order=order), values, "touches")
    np.testing.assert_array_equal(found, np.isin(numbers, touched) & (numbers > 0))
