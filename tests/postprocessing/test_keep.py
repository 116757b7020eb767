import numpy as np

from pipeline.postprocessing.keep import Keep, keep_components


def test_by_hand():
    labels = np.zeros((6, 3, 3), np.int32)
    labels[0, 0, 0] = labels[1, 1, 1] = 7  # These touch at a corner.
    labels[4, 0, 0] = 7
    labels[5, 2, 2] = 2
    found = keep_components(labels, {7: Keep(None, 3.0)}, 1.5)
    expected = labels.copy()
    expected[4, 0, 0] = 0
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(keep_components(labels, {7: Keep(1, 0.0)}, 1.5), expected)
    np.testing.assert_array_equal(keep_components(labels, {7: Keep(2, 0.0)}, 1.5), labels)


def test_of_equal_components_those_with_the_smallest_index_come_first():
    labels = np.zeros((5, 5, 5), np.uint8)
    labels[4, 0, 0] = labels[2, 4, 0] = labels[2, 0, 4] = labels[0, 0, 0] = labels[0, 0, 1] = 1
    expected = [[[0, 0, 0], [0, 0, 1]], [[2, 0, 4]], [[2, 4, 0]], [[4, 0, 0]]]
    for number in range(1, 6):
        kept = keep_components(labels, {1: Keep(number, 0.0)}, 1.0)
        assert np.argwhere(kept).tolist() == [i for each in expected[:number] for i in each]


def test_labels_that_are_not_there_and_labels_without_rules():
    labels = np.full((2, 2, 2), 5, np.int32)
    kept = keep_components(labels, {9: Keep(1, 1e9)}, 1.0)
    np.testing.assert_array_equal(kept, labels)
    np.testing.assert_array_equal(keep_components(labels, {}, 1.0), labels)
    assert kept is not labels
