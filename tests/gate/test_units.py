import numpy as np
import pytest

from pipeline.volume import Volume


def unit(data):
    return (data - data.min()) / np.ptp(data)


def window(data, low, high):
    return np.round(np.clip((data - low) / (high - low), 0, 1) * 255)


WRONG = {
    "[0, 1]": (unit, "from 0 to 1: normalised"),
    "[-1, 1]": (lambda data: 2 * unit(data) - 1, "from -1 to 1: normalised"),
    "z-scores": (lambda data: (data - data.mean()) / data.std(), "99 % of the voxels lie within"),
    "8 bits": (lambda data: window(data, -160, 240), "from 0 to 255: a window, perhaps in 8 bits"),
    "offset": (lambda data: data + 1024, "plus about 10"),
    "offset twice": (lambda data: data - 1024, "the offset was subtracted twice"),
    "unsigned": (lambda data: np.where(data < 0, data + 65536, data), "unsigned numbers"),
    "negated": (lambda data: -data, "inverted"),
    "narrow": (lambda data: data.clip(0, 80), "from 0 to 80: a window"),
    "other numbers": (lambda data: (data + 1800) / 2, "no air below 0"),
    "soft tissue": (lambda data: data.clip(-60, 180), "cut to a window"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_hounsfield_is_refused_by_name(ask_ct, good_ct, changed, name):
    damage, words = WRONG[name]
    found = ask_ct(changed(good_ct, damage))["units"]
    assert found.verdict == "reject"
    assert words in found.found
    assert "DICOM" in found.remedy


def test_a_window_wider_than_what_the_network_uses_only_warns(ct, ask_ct, good_ct, changed):
    low = ct[0].channels[0].percentile_00_5
    used = ct[0].channels[0].model_copy(update={"percentile_00_5": -150.0})
    narrow = ct[0].model_copy(update={"channels": (used,)})
    assert low < -900, "the labels of this fingerprint cover the air as well"
    cut = changed(good_ct, lambda data: np.maximum(data, -200))
    assert ask_ct(cut)["units"].verdict == "reject"
    assert ask_ct(cut, fingerprint=narrow)["units"].verdict == "warn"


def test_padding_and_metal_are_no_wrong_units(ask_ct, good_ct, changed):
    def metal(data):
        data[:, 30:32, 30:32, 20:22] = 8000
        data[:, :3] = -2000
        return data

    assert "units" not in ask_ct(changed(good_ct, metal))


def test_inside_the_body_there_is_no_air_and_that_only_warns(ask_ct, good_ct):
    i, j, k = (n // 2 for n in good_ct.data_CIJK.shape[1:])
    inside = good_ct.data_CIJK[:, i - 8 : i + 8, j - 9 : j + 2, k - 12 : k]
    found = ask_ct(Volume(inside.clip(-150, None), good_ct.affine))["units"]
    assert found.verdict == "warn"
    assert "every training case shows air" in found.found


def test_nothing_is_said_of_mr(ask_mr, mr):
    assert "units" not in ask_mr(Volume(mr[1][0].data_CIJK / 1000, mr[1][0].affine))
