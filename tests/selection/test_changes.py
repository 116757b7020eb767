import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.selection.changes import (
    apply_change,
    crop_changes,
    difference,
    gate,
    largest_shares,
)

MAPS = arrays.arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 3))


@given(MAPS, MAPS)
def test_a_change_leads_from_one_map_to_the_other(before, after):
    kept = before.copy()
    np.testing.assert_array_equal(apply_change(before, difference(before, after)), after)
    np.testing.assert_array_equal(before, kept)


@given(MAPS, MAPS, st.sets(st.integers(1, 3)))
def test_a_label_that_is_not_accepted_keeps_every_voxel(before, after, accepted):
    gated = apply_change(before, gate(difference(before, after), accepted))
    for value in {1, 2, 3} - accepted:
        np.testing.assert_array_equal(gated == value, before == value)
    # Nothing that was allowed is lost.
    free = [0, *accepted]
    allowed = np.isin(before, free) & np.isin(after, free)
    np.testing.assert_array_equal(gated, np.where(allowed, after, before))


def test_the_largest_share_is_of_a_case_that_has_the_label_before():
    before = np.array([[[1, 1, 1, 1, 2, 0, 0, 0]]], np.uint8)
    after = np.array([[[1, 1, 1, 2, 0, 1, 1, 3]]], np.uint8)
    other = np.array([[[1, 1, 0, 0, 0, 0, 0, 0]]], np.uint8)
    of_other = np.array([[[1, 1, 1, 1, 2, 0, 0, 0]]], np.uint8)
    labels = {"one": 1, "two": 2, "three": 3}
    shares = largest_shares([(before, after), (other, of_other)], labels)
    # One: a voxel lost, two gained, of four; then two gained of two. Two: lost its only one, gained
    # one; new in the other case. Three: new.
    assert shares == {"one": pytest.approx(1.0), "two": pytest.approx(2.0)}
    assert largest_shares([(before, before)], labels) == {"one": 0.0, "two": 0.0}


@given(MAPS, MAPS)
def test_changes_of_a_box_are_those_of_the_volume(before, after):
    outside = np.zeros((3, 4, 5), bool)
    outside[0] = outside[:, 3] = True
    after = np.where(outside, before, after)
    box = (slice(1, 3), slice(0, 3), slice(0, 5))
    (change,) = crop_changes([difference(before, after)], before.shape, box)
    np.testing.assert_array_equal(apply_change(before[box].copy(), change), after[box])
