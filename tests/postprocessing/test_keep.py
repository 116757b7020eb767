import cc3d
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.postprocessing.keep import Keep, find_with_scipy, keep_components

label_maps = hnp.arrays(np.uint8, (5, 4, 4), elements=st.sampled_from([0, 0, 0, 1, 3]))
rules = st.dictionaries(
    st.sampled_from([1, 3]), st.builds(Keep, st.booleans(), st.floats(0, 12)), max_size=2
)


def find_with_cc3d(mask_IJK):
    return cc3d.connected_components(mask_IJK.view(np.uint8), connectivity=26)


@given(label_maps, rules)
def test_it_is_no_matter_who_finds_the_components(labels, rules):
    by_scipy = keep_components(labels, rules, 2.0, find_with_scipy)
    by_cc3d = keep_components(labels, rules, 2.0, find_with_cc3d)
    np.testing.assert_array_equal(by_scipy, by_cc3d)
    assert by_scipy.dtype == labels.dtype


def test_by_hand():
    labels = np.zeros((6, 3, 3), np.int32)
    labels[0, 0, 0] = labels[1, 1, 1] = 7  # These touch at a corner.
    labels[4, 0, 0] = 7
    labels[5, 2, 2] = 2
    found = keep_components(labels, {7: Keep(False, 3.0)}, 1.5, find_with_scipy)
    expected = labels.copy()
    expected[4, 0, 0] = 0
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(
        keep_components(labels, {7: Keep(True, 0.0)}, 1.5, find_with_scipy), expected
    )


def test_labels_that_are_not_there_and_labels_without_rules():
    labels = np.full((2, 2, 2), 5, np.int32)
    kept = keep_components(labels, {9: Keep(True, 1e9)}, 1.0, find_with_scipy)
    np.testing.assert_array_equal(kept, labels)
    np.testing.assert_array_equal(keep_components(labels, {}, 1.0, find_with_scipy), labels)
