import nibabel as nib
import numpy as np
import pytest
import torch

from pipeline.transforms.orientation import native_part, ras_grid, ras_view
from pipeline.transforms.preprocess import to_ras
from pipeline.volume import Grid

SHAPE = (5, 4, 3)


@pytest.fixture
def native():
    """Voxels of a file, each with a value of its own."""
    return np.arange(60, dtype=np.int32).reshape(SHAPE)


def test_same_as_nibabel(any_affine, native):
    closest = nib.as_closest_canonical(nib.Nifti1Image(native, any_affine))
    grid = ras_grid(Grid(SHAPE, any_affine))
    assert grid.shape == closest.shape
    np.testing.assert_allclose(grid.affine, closest.affine, atol=1e-12)
    np.testing.assert_array_equal(ras_view(native, any_affine), np.asarray(closest.dataobj))


def test_same_as_monai(any_affine, native):
    expected = to_ras(torch.from_numpy(native[None]), any_affine)
    grid = ras_grid(Grid(SHAPE, any_affine))
    np.testing.assert_allclose(grid.affine, expected.affine.numpy(), atol=1e-12)
    np.testing.assert_array_equal(ras_view(native, any_affine), expected[0].numpy())


def test_voxels_stay_where_they_are_in_the_world(any_affine, world):
    """The world coordinates of a file's voxels, seen in RAS order, are those of the RAS grid."""
    grid = ras_grid(Grid(SHAPE, any_affine))
    for axis, coordinate in enumerate(np.moveaxis(world(SHAPE, any_affine), -1, 0)):
        expected = world(grid.shape, grid.affine)[..., axis]
        np.testing.assert_allclose(ras_view(coordinate, any_affine), expected, atol=1e-9)


def test_writing_to_the_view_writes_to_the_file(any_affine, native):
    view = ras_view(native, any_affine)
    assert np.shares_memory(view, native)
    view[1, 2, 0] = -7
    assert np.count_nonzero(native == -7) == 1
    np.testing.assert_array_equal(ras_view(native, any_affine) == -7, view == -7)


def test_parts_go_back_to_where_they_come_from(any_affine, native):
    grid = Grid(SHAPE, any_affine)
    view = ras_view(native, any_affine)
    i, j, k = view.shape
    boxes = [
        (slice(0, i), slice(0, j), slice(0, k)),
        (slice(0, 2), slice(1, 3), slice(0, 1)),
        (slice(i - 1, i), slice(1, 2), slice(1, k)),
        (slice(1, i), slice(0, j - 1), slice(2, 3)),
    ]
    for box in boxes:
        part, there = native_part(view[box], box, grid)
        assert all(
            0 <= along.start < along.stop <= n for along, n in zip(there, SHAPE, strict=True)
        )
        np.testing.assert_array_equal(part, native[there])
        assert np.shares_memory(part, native)


def test_part_of_a_scan_from_left_to_right_by_hand():
    """LPS, 10 voxels along R: the first RAS voxels are the last of the file."""
    native = Grid((10, 4, 3), np.diag([-1.0, -1.0, 1.0, 1.0]))
    _, there = native_part(np.zeros((2, 4, 1)), (slice(0, 2), slice(0, 4), slice(1, 2)), native)
    assert there == (slice(8, 10), slice(0, 4), slice(1, 2))
