import numpy as np
import pytest

from pipeline.output import incomplete_labels, say_incomplete, volumes_ml
from pipeline.volume import Grid


def test_by_hand():
    labels = np.zeros((10, 10, 10), np.uint8)
    labels[:5, :4, :3] = 2
    labels[5:, 0, 0] = 7
    labels[0, 9, 9] = 9
    grid = Grid((10, 10, 10), np.diag([-2.0, 1.0, 5.0, 1.0]))
    # A voxel of 2 x 1 x 5 mm is 0.01 ml; 60, 5 and 0 voxels; label 9 is not asked for.
    expected = {"liver": 0.6, "lesion": 0.05, "spleen": 0.0}
    found = volumes_ml(labels, grid, {"liver": 2, "lesion": 7, "spleen": 300})
    assert found == pytest.approx(expected)


def test_an_oblique_grid_has_the_same_volume():
    angle = np.deg2rad(30)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    labels = np.ones((10, 10, 10), np.uint16)
    assert volumes_ml(labels, Grid(labels.shape, affine), {"all": 1}) == pytest.approx({"all": 1.0})


def test_no_labels():
    assert volumes_ml(np.zeros((2, 2, 2), np.uint8), Grid((2, 2, 2), np.eye(4)), {}) == {}


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("end", [0, -1])
def test_a_label_that_touches_a_face_is_incomplete(axis, end):
    labels = np.zeros((5, 6, 7), np.uint8)
    labels[1:-1, 1:-1, 1:-1] = 1
    np.moveaxis(labels, axis, 0)[end].flat[3] = 2
    assert incomplete_labels(labels, {"inside": 1, "edge": 2, "absent": 3}) == ("edge",)


def test_what_is_said_of_them():
    assert say_incomplete(["liver"]).startswith("liver touches the end of the volume")
    assert say_incomplete(["liver", "aorta"]).startswith("liver, aorta touch the end of the volume")
