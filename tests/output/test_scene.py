import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

from pipeline.output.picture import make_scene
from pipeline.volume import Volume

NAMES = {"target": 1}
SPACING_MM = (1.0, 2.0, 3.0)


def marked(codes="RAS"):
    """A volume whose target lies to the right, in front and at the head, on a grid of `codes`."""
    labels = np.zeros((8, 10, 12), np.uint8)
    labels[6, 8, 9] = 1
    affine = np.diag([*SPACING_MM, 1.0])
    transform = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    turned = apply_orientation(labels, transform)
    data = turned.astype(np.float32)[None] * 100
    return Volume(data, affine @ inv_ornt_aff(transform, labels.shape)), turned


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SAL", "AIL", "LAS"])
def test_radiological_convention_whatever_the_voxel_order(codes):
    volume, labels = marked(codes)
    assert "".join(nib.aff2axcodes(volume.affine)) == codes
    scene = make_scene(volume, labels, NAMES, None)
    cuts = {plane.name: plane.cut(scene.rows["mask"], index) for plane, index in scene.slices}
    # Rows count from the bottom of the picture, columns from its left.
    axial_row, axial_column = np.argwhere(cuts["axial"])[0]
    assert (axial_row, axial_column) == (8, 8 - 1 - 6), "front up, right on the left"
    coronal_row, coronal_column = np.argwhere(cuts["coronal"])[0]
    assert (coronal_row, coronal_column) == (9, 8 - 1 - 6), "head up, right on the left"
    sagittal_row, sagittal_column = np.argwhere(cuts["sagittal"])[0]
    assert (sagittal_row, sagittal_column) == (9, 10 - 1 - 8), "head up, front on the left"
    sizes = {plane.name: scene.size_mm(plane) for plane, _ in scene.slices}
    expected = {"axial": (8, 20), "coronal": (8, 36), "sagittal": (20, 36)}
    assert sizes == {name: pytest.approx(size) for name, size in expected.items()}


def test_the_slice_with_most_foreground_of_both_masks():
    labels, reference = np.zeros((2, 6, 6, 6), np.uint8)
    labels[2, 2, 2] = 1
    reference[:, :, 4] = 1
    volume = Volume(np.ones((1, 6, 6, 6), np.float32), np.eye(4))
    scene = make_scene(volume, labels, NAMES, reference)
    assert list(scene.rows) == ["prediction", "reference"]
    assert {plane.name: index for plane, index in scene.slices}["axial"] == 4
    named = make_scene(volume, labels, NAMES, reference, ("refined", "as given"))
    assert list(named.rows) == ["refined", "as given"]


def test_an_empty_mask_shows_the_middle():
    volume = Volume(np.ones((1, 7, 9, 11), np.float32), np.eye(4))
    scene = make_scene(volume, np.zeros((7, 9, 11), np.uint8), NAMES, None)
    assert [index for _, index in scene.slices] == [5, 4, 3]
    assert scene.visible() == []


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((8, 8, 1), ["axial"]),
        ((8, 1, 8), ["coronal"]),
        ((1, 8, 8), ["sagittal"]),
        ((1, 1, 8), ["axial"]),
        ((8, 8, 2), ["axial", "coronal", "sagittal"]),
    ],
)
def test_views_that_would_be_lines_are_left_out(shape, expected):
    volume = Volume(np.ones((1, *shape), np.float32), np.eye(4))
    scene = make_scene(volume, np.ones(shape, np.uint8), NAMES, None)
    assert [plane.name for plane, _ in scene.slices] == expected


def window_of(data):
    volume = Volume(np.asarray(data, np.float32)[None], np.eye(4))
    return make_scene(volume, np.zeros(volume.grid.shape, np.uint8), NAMES, None).window


def test_air_does_not_take_the_greys_from_tissue():
    rng = np.random.default_rng(0)
    ct_hu = np.full((40, 40, 40), -1000.0)
    ct_hu[10:30, 10:30, 10:30] = rng.normal(40, 30, (20, 20, 20))
    low, high = window_of(ct_hu)
    assert -100 < low < 0
    assert 80 < high < 200


def test_one_bright_voxel_does_not_darken_the_rest():
    data = np.random.default_rng(0).uniform(100, 200, (20, 20, 20))
    data[0, 0, 0] = 1e6
    low, high = window_of(data)
    assert 100 <= low < high <= 200


@pytest.mark.parametrize("value", [0.0, -1000.0, 1e30])
def test_a_constant_volume_has_a_window(value):
    low, high = window_of(np.full((4, 4, 4), value))
    assert low < high
