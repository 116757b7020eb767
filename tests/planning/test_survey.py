import nibabel as nib
import numpy as np
import pytest

from pipeline.manifest import Channel
from pipeline.planning.survey import find_body, take_survey
from pipeline.volume import LabelMap, Volume

CT = [Channel("CT", "CT")]


def study(code="RAS"):
    """A body of tissue in air, 2 mm voxels; label 1 in its right front, label 2 at its feet."""
    data = np.full((1, 60, 50, 40), -1000, np.float32)
    data[0, 10:50, 10:40, 10:30] = 40
    labels = np.zeros((60, 50, 40), np.uint8)
    labels[44:48, 34:38, 18:22] = 1
    labels[28:32, 23:27, 10:12] = 2
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    if code != "RAS":
        to = nib.orientations.axcodes2ornt(code)
        move = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), to)
        affine = affine @ nib.orientations.inv_ornt_aff(move, labels.shape)
        data = nib.orientations.apply_orientation(data[0], move)[None]
        labels = nib.orientations.apply_orientation(labels, move)
    return Volume(np.ascontiguousarray(data), affine), LabelMap(
        np.ascontiguousarray(labels), affine
    )


@pytest.mark.parametrize("code", ["RAS", "LPI", "SAR", "IPL"])
def test_positions_are_in_the_crop_along_ras(code):
    body = find_body(*study(code), CT)
    # 40 voxels of body and 5 of margin on either side.
    assert body.size_mm == pytest.approx((100, 80, 60))
    # Centroid 45.5 + 0.5 - 30 = 16 voxels right of the middle of 50; and so on.
    assert body.positions[1] == pytest.approx((16 / 50, 11 / 40, 0), abs=1e-6)
    assert body.positions[2] == pytest.approx((0, 0, -9 / 30), abs=1e-6)
    assert body.foreground_share == pytest.approx((4 * 4 * 4 + 4 * 4 * 2) / (50 * 40 * 30))


def test_ignored_voxels_have_no_position():
    volume, label_map = study()
    label_map.labels_IJK[20:30, 20:30, 20:30] = 255
    assert set(find_body(volume, label_map, CT, 255).positions) == {1, 2}


def test_a_survey_takes_medians_over_the_cases():
    large, small = study(), study()
    small[0].data_CIJK[0, 30:50] = -1000
    survey = take_survey([large, small, small], CT)
    assert survey.size_mm == pytest.approx((60, 80, 60))
    assert survey.fingerprint.num_cases == len(survey.bodies) == 3
