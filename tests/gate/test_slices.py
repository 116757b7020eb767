import numpy as np
import pytest

from pipeline.volume import Volume


def middle(data):
    return data.shape[3] // 2


def test_lost_slices_show_as_a_step(ask_ct, good_ct, changed):
    def lose(data):
        n = middle(data)
        return np.delete(data, range(n - 4, n + 4), axis=3)

    found = ask_ct(changed(good_ct, lose))["slices"]
    assert "along S" in found.found
    # The first slice after the gap, counted from 1.
    assert f"slice {middle(good_ct.data_CIJK) - 4 + 1} of" in found.found


def test_empty_slices_inside_are_refused_and_at_the_ends_are_not(ask_ct, good_ct, changed):
    def blank(data, where):
        data[..., where] = -1024
        return data

    n = middle(good_ct.data_CIJK)
    found = ask_ct(changed(good_ct, lambda data: blank(data, [n, n + 1])))["slices"]
    assert found.verdict == "reject"
    assert f"2 of {2 * n + good_ct.data_CIJK.shape[3] % 2} slices hold a single" in found.found
    assert f"the first is number {n + 1}" in found.found
    assert "slices" not in ask_ct(changed(good_ct, lambda data: blank(data, [0, 1, -1])))


def test_doubled_and_interpolated_slices_warn(ask_ct, good_ct, changed):
    n = middle(good_ct.data_CIJK)

    def double(data):
        data[..., n] = data[..., n - 1]
        return data

    def fill(data):
        data[..., n] = (data[..., n - 1] + data[..., n + 1]) / 2
        return data

    for damage, words in ((double, "copies of the one before"), (fill, "mean of their neigh")):
        found = ask_ct(changed(good_ct, damage))["slices"]
        assert found.verdict == "warn"
        assert words in found.found
        assert f"number {n + 1}" in found.found


def test_what_training_has_is_not_odd(ct, ask_ct, good_ct, changed):
    def double(data):
        data[..., 10] = data[..., 9]
        return data

    look = ct[0].look
    usual = look.doubled_slices.model_copy(update={"highest": 0.1})
    used_to = ct[0].model_copy(update={"look": look.model_copy(update={"doubled_slices": usual})})
    assert "slices" in ask_ct(changed(good_ct, double))
    assert "slices" not in ask_ct(changed(good_ct, double), fingerprint=used_to)


def test_noise_is_told_from_an_image(ask_ct, good_ct, changed):
    rng = np.random.default_rng(0)
    noise = changed(good_ct, lambda data: rng.permutation(data.ravel()).reshape(data.shape))
    found = ask_ct(noise)["noise"]
    assert found.verdict == "reject"
    assert "this is noise" in found.found
    # Even at a tenfold noise of 150 HU neighbours still have the body in common.
    noisy = changed(good_ct, lambda data: data + rng.normal(0, 150, data.shape))
    assert "noise" not in ask_ct(noisy)


@pytest.mark.parametrize("keep", [3, 4])
def test_slices_left_out_evenly_make_an_axis_coarser(ask_ct, good_ct, keep):
    sparse = Volume(good_ct.data_CIJK[:, ::keep], good_ct.affine)
    found = ask_ct(sparse)["texture"]
    assert found.verdict == "warn"
    assert "coarser along R" in found.found
