from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from pipeline.gate import AdmissionConfig, admit
from pipeline.study import Study
from pipeline.study.header import header_from_grid
from pipeline.volume import Volume


def scaled(volume, *factors):
    return Volume(volume.data_CIJK, volume.affine @ np.diag([*factors, 1.0]))


@pytest.mark.parametrize(("degrees", "verdict"), [(0.3, None), (2, "warn"), (15, "reject")])
def test_shear_by_its_angle(ask_ct, good_ct, degrees, verdict):
    shear = np.eye(4)
    shear[1, 2] = np.tan(np.radians(degrees))
    # Upright first, so that the angle is the one meant.
    upright = np.diag([2.5, 2.5, 4, 1.0])
    found = ask_ct(Volume(good_ct.data_CIJK, shear @ upright))
    assert (found["shear"].verdict if "shear" in found else None) == verdict
    if verdict:
        assert f"sheared by {degrees:.1f} degrees, in training by up to 0.0" in found["shear"].found


def test_spacing_against_the_training_range(ct, ask_ct):
    """Training has slices of 2.5 to 5 mm: 2.5 times more warns, 6 times more rejects."""
    highest = ct[0].spacing_range_mm[1][2]
    assert 2.5 < highest < 5
    data = ct[1][0].data_CIJK
    for factor, verdict in ((2.4, None), (2.6, "warn"), (6.1, "reject")):
        found = ask_ct(Volume(data, np.diag([2.5, 2.5, factor * highest, 1.0])))
        assert (found["spacing"].verdict if "spacing" in found else None) == verdict
    assert f"{factor * highest:.3g} mm along S" in found["spacing"].found
    low = ct[0].spacing_range_mm[0][0]
    assert ask_ct(Volume(data, np.diag([low / 6.1, 2.5, 4, 1])))["spacing"].verdict == "reject"


def test_spacing_is_along_ras_whatever_the_order_of_axes(ct, ask_ct):
    # The second voxel axis runs down with 100 mm.
    affine = np.array([[0, 0, 2.5, 0], [2.5, 0, 0, 0], [0, -100.0, 0, 0], [0, 0, 0, 1]])
    assert "100 mm along S" in ask_ct(Volume(ct[1][0].data_CIJK, affine))["spacing"].found


def test_a_third_of_the_body_warns_and_a_corner_is_refused(ask_ct, good_ct):
    size = good_ct.data_CIJK.shape[3]
    third = Volume(good_ct.data_CIJK[..., size // 3 : 2 * size // 3], good_ct.affine)
    found = ask_ct(third)["field_of_view"]
    assert found.verdict == "warn"
    assert "along S" in found.found
    assert "cut off" in found.remedy
    i, j, k = (n // 3 for n in good_ct.data_CIJK.shape[1:])
    corner = Volume(good_ct.data_CIJK[:, :i, :j, :k], good_ct.affine)
    assert ask_ct(corner)["field_of_view"].verdict == "reject"


def test_a_whole_body_only_warns(ask_ct, good_ct):
    """The model's window slides over it; a liver in it is found as well as in a liver scan."""
    whole = Volume(np.concatenate([good_ct.data_CIJK] * 5, axis=3), good_ct.affine)
    found = ask_ct(whole)["field_of_view"]
    assert (found.verdict, "Crop" in found.remedy) == ("warn", True)


def test_a_header_that_says_nothing_of_the_patient(ct, good_ct):
    header = header_from_grid(good_ct.grid)
    known = Study("case", good_ct, header, (), ())
    silent = nib.Nifti1Header()
    silent["pixdim"][:4] = header["pixdim"][:4]
    findings = admit(replace(known, header=silent), ct[0], ["CT"], AdmissionConfig())
    assert [(f.check, f.verdict) for f in findings] == [("orientation", "warn")]
    assert admit(known, ct[0], ["CT"], AdmissionConfig()) == ()


def test_limits_are_wider_for_few_cases(ct, ask_ct, good_ct):
    size = good_ct.data_CIJK.shape[3]
    most = Volume(good_ct.data_CIJK[..., : round(0.5 * size)], good_ct.affine)
    assert "field_of_view" in ask_ct(most)
    few = ct[0].model_copy(update={"num_cases": 5})
    assert "field_of_view" not in ask_ct(most, fingerprint=few)
