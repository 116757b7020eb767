import numpy as np
import pytest

from pipeline.fingerprint import take_fingerprint
from pipeline.volume import LabelMap, Volume


@pytest.mark.parametrize(
    ("tag", "refused"), [("MR", True), ("PT", True), ("CT", False), ("ct", False), (None, False)]
)
def test_the_modality_in_the_file(ask_ct, good_ct, tag, refused):
    found = ask_ct(good_ct, tag)
    assert ("modality" in found) == refused
    if refused:
        assert f"the study is {tag}, the model is for CT" in found["modality"].found


def test_ct_for_an_mr_model_is_told_by_its_air(ask_mr, ct):
    volume = ct[1][0]
    found = ask_mr(Volume(np.concatenate([volume.data_CIJK] * 2), volume.affine))
    assert found["modality"].verdict == "reject"
    assert "this is CT" in found["modality"].found


def test_mr_for_a_ct_model_is_told_by_its_values(ask_ct, mr):
    volume = mr[1][0]
    found = ask_ct(Volume(volume.data_CIJK[:1], volume.affine))
    assert found["units"].verdict == "reject"


def test_a_constant_volume_is_empty(ask_ct, good_ct, changed):
    found = ask_ct(changed(good_ct, lambda data: np.full_like(data, 40)))["empty"]
    assert found.verdict == "reject"
    assert "the value 40" in found.found


def test_hardly_any_body_is_empty_and_half_of_it_odd(ask_ct, good_ct, changed):
    def clear(data, share):
        data[..., : round(share * data.shape[3])] = -1000
        return data + np.random.default_rng(0).normal(0, 10, data.shape)

    found = ask_ct(changed(good_ct, lambda data: clear(data, 0.95)))["empty"]
    assert found.verdict == "reject"
    found = ask_ct(changed(good_ct, lambda data: clear(data, 0.65)))["empty"]
    assert found.verdict == "warn"
    assert "empty" not in ask_ct(good_ct)


@pytest.mark.parametrize("scheme", ["zscore_nonzero", "zscore_robust", "none"])
def test_a_mask_is_empty_where_normalisation_leaves_nothing(ask_mr, mr, changed, scheme):
    def as_mask(data):
        data[1] = data[1] > data[1].mean()
        return data

    masked = changed(mr[1][0], as_mask)
    found = ask_mr(masked, schemes=["zscore_nonzero", scheme])
    is_constant = "empty" in found and "have the value 1" in found["empty"].found
    assert is_constant == (scheme != "none")
    if is_constant:
        assert found["empty"].verdict == "reject"
        assert found["empty"].found.startswith("channel 2")


def test_a_model_trained_on_masks_takes_them_as_before(ask_mr, mr, changed):
    """Models of earlier versions may have learnt beside a channel of zeros."""
    mask = changed(mr[1][0], lambda data: (data > data.mean()).astype(np.float32))
    labels = LabelMap(np.ones(mask.data_CIJK.shape[1:], np.uint8), mask.affine)
    found = ask_mr(
        mask,
        schemes=["zscore_nonzero"] * 2,
        fingerprint=take_fingerprint([(mask, labels)] * 2, 0),
    )
    assert "empty" not in found


def test_padding_warns_for_ct_and_spoils_mr(ask_ct, ask_mr, good_ct, mr, changed):
    def pad(data):
        data[:, :4] = -3024
        return data

    found = ask_ct(changed(good_ct, pad))
    assert {check: f.verdict for check, f in found.items()} == {"padding": "warn"}
    share = 4 / good_ct.data_CIJK.shape[1]
    assert f"{share:.0%}"[:1] in found["padding"].found
    assert "-3024" in found["padding"].found
    assert ask_mr(changed(mr[1][0], pad))["padding"].verdict == "reject"


def test_many_voxels_at_the_top_are_saturated(ask_mr, mr, changed):
    clipped = changed(mr[1][0], lambda data: np.minimum(data, 300))
    found = ask_mr(clipped)["saturation"]
    assert found.verdict == "warn"
    assert "largest value, 300" in found.found


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: (data - data.mean()) / data.std(), "below -"),
        (lambda data: data + 2000, "a constant was added"),
        (lambda data: data * 1e5, "intensities cover"),
    ],
)
def test_mr_on_another_scale_warns(ask_mr, mr, changed, damage, words):
    found = ask_mr(changed(mr[1][0], damage))["scale"]
    assert found.verdict == "warn"
    assert words in found.found
    assert found.found.startswith("channel ")


def test_a_factor_of_mr_is_no_matter(ask_mr, mr, changed):
    assert ask_mr(changed(mr[1][0], lambda data: data * 4)) == {}
