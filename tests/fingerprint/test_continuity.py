import numpy as np
import pytest

from pipeline.fingerprint.continuity import measure_continuity


def stack(num=20, size=30, seed=0):
    """A smooth image along the last axis, with noise."""
    rng = np.random.default_rng(seed)
    i, j, k = np.indices((size, size, num))
    image = 100 * np.sin(i / 9) * np.cos(j / 7) + 30 * np.sin(k / 6)
    return (image + rng.normal(0, 5, image.shape)).astype(np.float32)


def test_an_orderly_volume_has_no_faults():
    for axis in range(3):
        found = measure_continuity(stack(), axis)
        assert (found.empty, found.doubled, found.made_up) == ((), (), ())
        assert 0 < found.largest_jump < 1.5


def test_the_step_is_the_mean_difference_of_neighbours():
    volume = stack(size=20)
    expected = np.abs(np.diff(volume.astype(np.float64), axis=1)).mean()
    assert measure_continuity(volume, 1).step == pytest.approx(expected, rel=1e-5)


def test_every_fault_is_found_at_its_place():
    volume = stack()
    volume[:, :, 5] = 7
    volume[:, :, 9] = volume[:, :, 8]
    volume[:, :, 14] = (volume[:, :, 13] + volume[:, :, 15]) / 2
    found = measure_continuity(volume, 2)
    assert found.faults("empty") == (5,)
    assert found.faults("doubled") == (9,)
    assert found.faults("made_up") == (14,)
    assert measure_continuity(volume, 0).empty == ()


def test_slices_of_nothing_at_the_ends_are_background():
    volume = stack()
    volume[:, :, :3] = 0
    volume[:, :, -2:] = 0
    found = measure_continuity(volume, 2)
    assert (found.empty, found.doubled) == ((), ())
    assert found.largest_jump < 1.5, "where the image begins is no gap"


def test_a_gap_is_the_largest_jump():
    """30 sin(k/6) moves by up to 5 from slice to slice, and by 47 over these ten."""
    volume = stack(num=60)
    gap = np.delete(volume, range(14, 24), axis=2)
    found = measure_continuity(gap, 2)
    assert found.jump_at == 14
    assert found.largest_jump > 3


def test_what_lies_below_the_floor_is_no_step():
    volume = stack(num=30)
    volume[:, :, 15:] -= 5000
    assert measure_continuity(volume, 2).largest_jump > 100
    assert measure_continuity(np.where(volume < -1000, -3000, volume), 2, -100).largest_jump < 20


def test_a_few_slices_are_too_few_to_judge():
    volume = stack(num=5)
    volume[:, :, 2] = 0
    found = measure_continuity(volume, 2)
    assert (found.empty, found.largest_jump) == ((), 0)


def test_a_slice_is_not_empty_because_the_part_that_is_looked_at_is():
    volume = np.zeros((100, 100, 12), np.float32)
    volume += np.arange(12)
    volume[::4, ::4] = 0
    # Only voxels that a stride of 4 leaves out differ within a slice.
    assert measure_continuity(volume, 2).empty == ()
    volume[:, :, 6] = 0
    assert measure_continuity(volume, 2).empty == (6,)


def test_a_gap_between_two_legs_is_no_lost_slice():
    """Two cylinders in a background of zeros, as many MR scanners give it."""
    i, j, _ = np.indices((90, 50, 12))
    volume = stack(num=12, size=90)[:, :50] + 300
    volume[np.minimum((i - 21) ** 2, (i - 68) ** 2) + (j - 25) ** 2 > 20**2] = 0
    assert not volume[43:46].any()
    assert measure_continuity(volume, 0).empty == ()
    volume[:, :, 6] = 0
    assert measure_continuity(volume, 2).empty == (6,)
