import itertools

import hypothesis
import nibabel as nib
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from pipeline.volume import Grid, LabelMap, Volume, hash_voxels, smallest_label_type

# Voxel axes run to S, R, P with 4, 1 and 2 mm.
PERMUTED = np.array([[0, 1.0, 0, 9], [0, 0, -2.0, 8], [4.0, 0, 0, 7], [0, 0, 0, 1]])
angles = st.floats(-180, 180)


def test_hand_values():
    grid = Grid((10, 20, 30), PERMUTED)
    assert grid.spacing_mm == (4.0, 1.0, 2.0)
    assert grid.axis_codes == "SRP"
    assert grid.num_voxels == 6000
    assert grid.voxel_volume_mm3 == pytest.approx(8.0)


def test_corners_by_hand():
    corners = Grid((3, 2, 1), PERMUTED).corners_mm()
    expected = {(9, 8, 7), (10, 8, 7), (9, 8, 15), (10, 8, 15)}
    assert corners.shape == (8, 3)
    assert {tuple(corner) for corner in corners.tolist()} == expected


@hypothesis.given(st.tuples(angles, angles, angles))
def test_turning_keeps_spacing_and_volume(degrees):
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    affine[:3, :3] = turn @ np.diag((0.5, 2.0, -3.0))
    grid = Grid((2, 2, 2), affine)
    np.testing.assert_allclose(grid.spacing_mm, (0.5, 2.0, 3.0))
    np.testing.assert_allclose(grid.spacing_mm, nib.affines.voxel_sizes(affine))
    assert grid.voxel_volume_mm3 == pytest.approx(3.0)


def test_shear_changes_spacing_but_not_volume():
    sheared = np.eye(4)
    sheared[0, 1] = 0.75
    grid = Grid((2, 2, 2), sheared)
    assert grid.spacing_mm == (1.0, 1.25, 1.0)
    assert grid.voxel_volume_mm3 == pytest.approx(1.0)


def test_many_voxels_do_not_overflow():
    assert Grid((2**15, 2**15, 2**15), np.eye(4)).num_voxels == 2**45


@pytest.mark.parametrize(("share", "is_same"), [(0.09, True), (0.11, False)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_shifted_grids_are_the_same_within_a_share_of_the_voxel(share, is_same, axis):
    shifted = PERMUTED.copy()
    shifted[:3, 3] += share * PERMUTED[:3, axis]
    grid, other = Grid((10, 20, 30), PERMUTED), Grid((10, 20, 30), shifted)
    assert grid.distance_mm(other) == pytest.approx(share * grid.spacing_mm[axis])
    assert grid.same_as(other) is other.same_as(grid) is is_same


SHEARED_OBLIQUE = np.array([[0.9, 0.2, 0.4, 5], [-0.3, 1.7, 0.1, 6], [0.2, 0, 3, 7], [0, 0, 0, 1]])


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", list(itertools.product([1, -1], repeat=3)))
@pytest.mark.parametrize("shape", [(4, 4, 4), (5, 4, 1)])
def test_voxels_in_any_order_are_put_in_that_of_another_grid(order, flips, shape):
    """Nibabel stores them otherwise; this brings them back, also where axes are as long."""
    voxels = np.arange(np.prod(shape)).reshape(shape)
    stored = nib.Nifti1Image(voxels, SHEARED_OBLIQUE, dtype=np.int64).as_reoriented(
        np.stack([order, flips], axis=1)
    )
    alignment = Grid(stored.shape, stored.affine).aligned_to(Grid(shape, SHEARED_OBLIQUE))
    assert alignment.is_same
    assert alignment.distance_mm < 1e-9
    np.testing.assert_array_equal(alignment.view(np.asarray(stored.dataobj)), voxels)


def test_a_shift_is_as_large_as_it_is_whatever_the_order():
    """Half a voxel of 2 mm, stored the other way round: 1 mm, not the size of the grid."""
    turned = np.diag([-2.0, 1, 1, 1])
    turned[0, 3] = 2 * 9 + 1
    alignment = Grid((10, 5, 5), turned).aligned_to(Grid((10, 5, 5), np.diag([2.0, 1, 1, 1])))
    assert (alignment.distance_mm, alignment.distance_voxels) == pytest.approx((1, 0.5))
    assert not alignment.is_same


def test_thickness_of_a_single_slice_moves_no_voxel():
    grids = [Grid((5, 5, 1), np.diag([1, 1, thickness, 1.0])) for thickness in (1, 5)]
    assert grids[0].aligned_to(grids[1]).is_as_stored
    assert grids[0].same_as(grids[1])


def test_rounding_counts_at_the_far_corner():
    """A spacing that is off by 0.001 mm is a voxel apart after a thousand voxels."""
    near, far = (
        Grid((n, 1, 1), np.diag([1.001, 1, 1, 1])).distance_mm(Grid((n, 1, 1), np.eye(4)))
        for n in (2, 1001)
    )
    assert (near, far) == pytest.approx((0.001, 1.0))


def test_float32_affines_are_the_same():
    affine = PERMUTED @ np.diag([1 / 3, 0.7, 0.9, 1])
    rounded = affine.astype(np.float32).astype(np.float64)
    assert Grid((512, 512, 512), affine).same_as(Grid((512, 512, 512), rounded))


def test_other_shape_or_nothing_known_is_another_grid():
    grid = Grid((2, 3, 4), np.eye(4))
    assert not grid.same_as(Grid((2, 3, 5), np.eye(4)))
    assert grid.aligned_to(Grid((2, 3, 5), np.eye(4))) is None
    assert not grid.same_as(Grid((2, 3, 4), np.full((4, 4), np.nan)))


def test_flipped_axis_is_another_grid_although_it_covers_the_same_space():
    flipped = np.diag([-1.0, 1, 1, 1])
    flipped[0, 3] = 4
    assert not Grid((5, 5, 5), np.eye(4)).same_as(Grid((5, 5, 5), flipped))


def test_grid_of_voxels_and_labels():
    volume = Volume(np.zeros((2, 3, 4, 5), np.float32), PERMUTED)
    label_map = LabelMap(np.zeros((3, 4, 5), np.uint8), PERMUTED)
    assert volume.grid.shape == label_map.grid.shape == (3, 4, 5)
    assert volume.grid.same_as(label_map.grid)


@pytest.mark.parametrize(
    ("largest", "dtype"),
    [(0, "u1"), (255, "u1"), (256, "u2"), (65535, "u2"), (65536, "u4"), (2**32, "u8")],
)
def test_smallest_label_type(largest, dtype):
    assert smallest_label_type(largest) == np.dtype(dtype)


def test_voxels_have_one_hash_however_they_are_stored():
    data = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    volume = Volume(data, np.eye(4))
    known = hash_voxels(volume)
    # Axes run to I, R and A: the same places in the patient.
    to_ira = np.array([[0, 1.0, 0, 0], [0, 0, 1.0, 0], [-1.0, 0, 0, 0], [0, 0, 0, 1]])
    turned = Volume(data.transpose(0, 3, 1, 2)[:, ::-1], to_ira)
    assert hash_voxels(turned) == known
    assert hash_voxels(Volume(np.asfortranarray(data), 2 * np.eye(4))) == known
    zero = np.zeros((1, 2, 2, 2), np.float32)
    assert hash_voxels(Volume(-zero, np.eye(4))) == hash_voxels(Volume(zero, np.eye(4)))
    other = data.copy()
    other[1, 2, 3, 4] += 1
    assert hash_voxels(Volume(other, np.eye(4))) != known
    assert hash_voxels(Volume(data[:, ::-1], np.eye(4))) != known
    assert hash_voxels(Volume(data.reshape(1, 6, 4, 5), np.eye(4))) != known
