import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from pipeline.postprocessing.apply import allow_labels, beyond, change_shares

SHAPE = (3, 4, 2)
MAPS = npst.arrays(np.uint8, SHAPE, elements=st.integers(0, 5))
VALUES = st.sets(st.integers(1, 7))


@given(MAPS, MAPS, VALUES)
def test_other_labels_neither_gain_nor_lose_a_voxel(before_IJK, after_IJK, values):
    found_IJK = allow_labels(before_IJK, after_IJK, values)
    for other in {1, 2, 3, 4, 5} - values:
        np.testing.assert_array_equal(found_IJK == other, before_IJK == other)


@given(MAPS, MAPS, VALUES)
def test_every_change_among_allowed_labels_stays(before_IJK, after_IJK, values):
    found_IJK = allow_labels(before_IJK, after_IJK, values)
    allowed = [0, *values]
    may = np.isin(before_IJK, allowed) & np.isin(after_IJK, allowed)
    np.testing.assert_array_equal(found_IJK[may], after_IJK[may])
    np.testing.assert_array_equal(found_IJK[~may], before_IJK[~may])
    assert found_IJK.dtype == before_IJK.dtype


def test_allowed_labels_by_hand():
    """1 and 2 may change. 3 neither takes from 1 nor from background, and gives nothing."""
    before = np.array([0, 0, 1, 1, 3, 3, 2], np.uint16)
    after = np.array([1, 3, 2, 3, 0, 1, 0], np.uint16)
    assert allow_labels(before, after, [1, 2]).tolist() == [1, 0, 2, 1, 3, 3, 0]


def test_shares_by_hand():
    """Of 4 voxels a loses 1 and gains 2; b loses 2 of 2; c had none; d stays; e is nowhere."""
    before = np.array([1, 1, 1, 1, 2, 2, 4, 0, 0], np.uint8)
    after = np.array([1, 1, 1, 0, 1, 1, 4, 3, 0], np.uint8)
    labels = {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}
    assert change_shares(before, after, labels) == {
        "a": 0.75,
        "b": 1.0,
        "c": float("inf"),
        "d": 0.0,
        "e": 0.0,
    }


def test_nothing_changed_is_no_share():
    before = np.array([[[0, 1], [300, 1]]], np.uint16)
    assert change_shares(before, before.copy(), {"a": 1, "b": 300}) == {"a": 0, "b": 0}


@given(MAPS, MAPS)
def test_shares_equal_counting(before_IJK, after_IJK):
    found = change_shares(before_IJK, after_IJK, {str(v): v for v in range(1, 6)})
    for value in range(1, 6):
        changed = np.count_nonzero((before_IJK == value) != (after_IJK == value))
        had = np.count_nonzero(before_IJK == value)
        expected = changed / had if had else (float("inf") if changed else 0)
        assert found[str(value)] == expected


def test_what_is_beyond_is_told_with_both_numbers():
    assert beyond({"liver": 0.1234, "spleen": 0.01}, {"liver": 0.05, "spleen": 0.02}) == [
        "post-processing was not applied: it would change 12.3% of liver, "
        "more than the 5.0% seen on validation"
    ]


def test_labels_without_a_limit_are_free():
    assert beyond({"liver": 9.0, "new": float("inf")}, {}) == []


@pytest.mark.parametrize(
    ("share", "is_beyond"), [(1 / 3, False), (1 / 3 + 1e-12, False), (1 / 3 + 1e-6, True)]
)
def test_rounding_is_no_excess(share, is_beyond):
    assert bool(beyond({"a": share}, {"a": float(f"{1 / 3:.10f}")})) == is_beyond


def test_a_label_that_came_from_nowhere_is_beyond_any_limit():
    (text,) = beyond({"a": float("inf")}, {"a": 100.0})
    assert text.startswith("post-processing was not applied: it would change inf% of a")
