import nibabel as nib
import numpy as np
import pytest

from pipeline.postprocessing import Rule, apply_rules
from pipeline.postprocessing.components import find_components
from pipeline.postprocessing.shape import mid_plane_mm
from pipeline.volume import Grid

LABELS = {"kidney": 1, "spine": 2}
RULES = (Rule(label="kidney", one_per_side=True),)
# RAS, 2 mm along x: voxel i lies at x = 2 i - 30.
AFFINE = np.array([[2.0, 0, 0, -30], [0, 1, 0, 5], [0, 0, 3, 100], [0, 0, 0, 1]])


def abdomen():
    """Two kidneys, a smaller piece on each side, and the spine."""
    labels = np.zeros((30, 9, 9), np.uint8)
    labels[3:8, 2:6, 2:8] = 1  # Left: x from -24 to -16 mm.
    labels[10:12, 2:4, 2:4] = 1  # Left piece.
    labels[20:26, 2:6, 2:7] = 1  # Right: x from 10 to 20 mm.
    labels[27:28, 7:9, 7:9] = 1  # Right piece, too small to move the plane.
    labels[13:16, 6:9, :] = 2
    return labels


def expected_abdomen():
    labels = abdomen()
    labels[10:12, 2:4, 2:4] = 0
    labels[27:28, 7:9, 7:9] = 0
    return labels


def clean(labels, affine, rules=RULES):
    return apply_rules(labels, Grid(labels.shape, affine), LABELS, rules).labels_IJK


def test_one_of_each_side_stays():
    np.testing.assert_array_equal(clean(abdomen(), AFFINE), expected_abdomen())


def test_the_plane_by_hand():
    labels = abdomen()
    grid = Grid(labels.shape, AFFINE)
    found = find_components(labels, {1, 2})
    everything = np.ones(len(found.label_N), bool)
    # From the left kidney at -24 mm to the right one at 20 mm; the piece at 24 mm does not count.
    assert mid_plane_mm(found, everything, grid) == pytest.approx(-2)
    # Without the right kidney: to the end of the spine at x = 0.
    kept = everything & (found.first_N3[:, 0] < 20)
    assert mid_plane_mm(found, kept, grid) == pytest.approx(-12)


def test_a_tenth_of_the_largest_helps_to_place_the_plane():
    labels = np.zeros((40, 2, 10), np.uint8)
    labels[0:2, :, :5] = 1  # 20 voxels
    labels[20, 0, 0:2] = 1  # 2 voxels
    labels[39, 0, 0] = 1  # 1 voxel
    found = find_components(labels, {1})
    everything = np.ones(len(found.label_N), bool)
    assert mid_plane_mm(found, everything, Grid(labels.shape, np.eye(4))) == pytest.approx(10)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "PIR", "SLA", "ILP"])
def test_sides_are_those_of_the_patient(codes):
    """The same anatomy in another voxel order gives the same anatomy."""
    there = nib.orientations.axcodes2ornt(codes)
    labels = nib.orientations.apply_orientation(abdomen(), nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), there
    ))  # fmt: skip
    images = [nib.Nifti1Image(each, AFFINE) for each in (abdomen(), expected_abdomen())]
    before, after = (
        image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(AFFINE), there))
        for image in images
    )
    np.testing.assert_array_equal(np.asarray(before.dataobj), labels)
    cleaned = clean(np.ascontiguousarray(labels), before.affine)
    np.testing.assert_array_equal(cleaned, np.asarray(after.dataobj))


def test_a_turned_patient():
    turn = np.eye(4)
    angle = np.deg2rad(20)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    np.testing.assert_array_equal(clean(abdomen(), turn @ AFFINE), expected_abdomen())


def test_where_x_runs_decides_and_not_the_first_axis():
    """The same voxels with x along K: all pieces lie on both sides of another plane."""
    labels = np.zeros((4, 4, 20), np.uint8)
    labels[0, 0, 1:5] = labels[3, 3, 1:3] = labels[0, 0, 15:19] = 1
    along_k = np.eye(4)[[2, 1, 0, 3]]
    cleaned = clean(labels, along_k)
    assert not cleaned[3, 3].any()
    assert cleaned[0, 0].sum() == 8
    # With x along I, the two at I = 0 lie on one side; the first of two equal ones stays.
    cleaned = clean(labels, np.eye(4))
    assert np.argwhere(cleaned).tolist() == [[0, 0, k] for k in range(1, 5)] + [
        [3, 3, 1],
        [3, 3, 2],
    ]


def test_components_that_are_gone_do_not_place_the_plane():
    labels = np.zeros((40, 3, 3), np.uint8)
    labels[0:4, 0] = labels[10:14, 0] = 1
    labels[39] = 2  # Too small to be a spine, so removed before.
    first = Rule(label="spine", min_volume_mm3=10)
    np.testing.assert_array_equal(
        np.unique(np.argwhere(clean(labels, np.eye(4), (first, *RULES)))[:, 0]),
        [0, 1, 2, 3, 10, 11, 12, 13],
    )
    # With it, the plane lies at 19.5, and both pieces on the left.
    cleaned = clean(labels, np.eye(4))
    assert np.unique(np.argwhere(cleaned == 1)[:, 0]).tolist() == [0, 1, 2, 3]
