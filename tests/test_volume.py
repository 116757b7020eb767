import hypothesis
import nibabel as nib
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from pipeline.volume import GRID_TOLERANCE_MM, Grid, LabelMap, Volume, smallest_label_type

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


@pytest.mark.parametrize(("factor", "is_same"), [(0.9, True), (1.1, False)])
def test_shifted_grids_are_the_same_within_the_tolerance(factor, is_same):
    shifted = PERMUTED.copy()
    shifted[1, 3] += factor * GRID_TOLERANCE_MM
    grid, other = Grid((10, 20, 30), PERMUTED), Grid((10, 20, 30), shifted)
    assert grid.distance_mm(other) == pytest.approx(factor * GRID_TOLERANCE_MM)
    assert grid.same_as(other) is other.same_as(grid) is is_same
    assert grid.same_as(other, tolerance_mm=1.0)


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
