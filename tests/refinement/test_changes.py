import numpy as np
from hypothesis import given
from hypothesis.extra.numpy import arrays

from pipeline.refinement.record import count_changes


def test_by_hand():
    before = np.array([[[0, 0, 1, 1, 2]]], np.uint8)
    after = np.array([[[0, 1, 1, 2, 2]]], np.uint8)
    changes = count_changes(before, after, (0, 5, 9), voxel_volume_mm3=500)
    assert list(changes) == [0, 5, 9]
    five = changes[5]
    assert (five.voxels_before, five.voxels_after, five.gained, five.lost) == (2, 2, 1, 1)
    assert (changes[9].ml_before, changes[9].ml_after) == (0.5, 1)
    assert (changes[0].gained, changes[0].lost) == (0, 1)


CLASSES = arrays(np.uint8, (2, 3, 4), elements={"min_value": 0, "max_value": 3})


@given(CLASSES, CLASSES)
def test_every_voxel_is_counted(before, after):
    changes = count_changes(before, after, range(4), 1).values()
    assert sum(change.voxels_after for change in changes) == after.size
    assert [c.voxels_after for c in changes] == np.bincount(after.ravel(), minlength=4).tolist()
    assert sum(c.gained for c in changes) == sum(c.lost for c in changes) == (before != after).sum()
