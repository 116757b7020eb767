import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.output.dicom.headers import Slice, find_slice, plane_from_dicom
from pipeline.volume import Grid

SHAPE = (4, 5, 6)
AFFINE = np.array([[-0.75, 0, 0, 30], [0, -1.5, 0, -12], [0, 0, 3.5, 100], [0, 0, 0, 1.0]])
"""By hand: 4 columns 0.75 mm apart to the left, 5 rows 1.5 mm apart to the back, 6 slices up."""
AXIAL = (1, 0, 0, 0, 1, 0)


def axial(position=(-30, 12, 100), spacing=(1.5, 0.75), shape=(5, 4), orientation=AXIAL):
    return plane_from_dicom(position, orientation, spacing, shape)


def test_dicom_is_lps_and_gives_the_spacing_of_rows_first():
    plane = plane_from_dicom((1, 2, 3), (0, 1, 0, 0, 0, -1), (4, 5), (7, 8))
    np.testing.assert_array_equal(plane.origin_mm, [-1, -2, 3])
    np.testing.assert_array_equal(plane.column_step_mm, [0, -5, 0])
    np.testing.assert_array_equal(plane.row_step_mm, [0, 0, -4])
    np.testing.assert_array_equal(plane.normal, [1, 0, 0])
    assert plane.shape == (7, 8)


def test_a_slice_of_the_grid_that_was_made_of_the_planes():
    assert find_slice(axial((-30, 12, 107)), Grid(SHAPE, AFFINE)) == Slice(
        2, 2, True, (False, False)
    )


def test_a_slice_is_a_view_in_rows_and_columns():
    labels_IJK = np.arange(4 * 5 * 6).reshape(SHAPE)
    view = Slice(2, 2, True, (False, True)).of(labels_IJK)
    # Row 1, column 0 is voxel j = 1, and the last i.
    assert view[1, 0] == labels_IJK[3, 1, 2]
    view[1, 0] = -1
    assert labels_IJK[3, 1, 2] == -1


@given(st.permutations([0, 1, 2]), st.lists(st.sampled_from([1, -1]), min_size=3, max_size=3))
def test_the_same_pixels_however_axes_are_ordered_and_turned(axes, signs):
    labels_IJK = np.arange(4 * 5 * 6).reshape(SHAPE)
    turn = np.array(list(zip(axes, signs, strict=True)))
    turned = nib.orientations.apply_orientation(labels_IJK, turn)
    affine = AFFINE @ nib.orientations.inv_ornt_aff(turn, SHAPE)
    view = find_slice(axial((-30, 12, 103.5)), Grid(turned.shape, affine)).of(turned)
    np.testing.assert_array_equal(view, labels_IJK[:, :, 1].T)


def test_rounded_positions_are_met():
    assert find_slice(axial((-30.1, 12.1, 103.9)), Grid(SHAPE, AFFINE)).index == 1


@pytest.mark.parametrize(
    ("plane", "message"),
    [
        (axial((-30.2, 12, 100)), "0.27 voxels off"),
        (axial((-30, 12, 101.75)), "0.5 voxels off"),
        (axial(spacing=(1.6, 0.75)), "0.27 voxels off"),
        (axial((-30, 12, 121)), "other voxels"),
        (axial((-30, 12, 96.5)), "other voxels"),
        (axial((-30.75, 12, 100)), "other voxels"),
        (axial(shape=(5, 3)), "other voxels"),
        (axial(orientation=(-1, 0, 0, 0, 1, 0)), "other voxels"),
        (axial(orientation=(0.6, 0.8, 0, -0.8, 0.6, 0), spacing=(1, 1)), "not the voxels"),
        (axial(spacing=(3, 0.75)), "not the voxels"),
        (axial(spacing=(0.3, 0.75)), "not the voxels"),
    ],
)
def test_planes_that_are_not_on_the_grid(plane, message):
    with pytest.raises(ValueError, match=message):
        find_slice(plane, Grid(SHAPE, AFFINE))
