import time

import numpy as np
import pytest

from pipeline.fingerprint import Fingerprint
from pipeline.gate import AdmissionConfig, admit
from pipeline.study import Study
from pipeline.study.header import header_from_grid
from pipeline.volume import Volume


def as_study(volume):
    return Study("case", volume, header_from_grid(volume.grid), (), ())


def test_good_studies_pass_without_a_word(ct, mr):
    for volume in ct[1]:
        assert admit(as_study(volume), ct[0], ["CT"], AdmissionConfig()) == ()
    for volume in mr[1]:
        assert admit(as_study(volume), mr[0], ["MR", "MR"], AdmissionConfig()) == ()


@pytest.mark.parametrize("fold", range(5))
def test_no_real_study_is_turned_away(shared_data, fold, real_heads):
    """Five parts of 200 crops of the hippocampus: scales differ by a factor of 10^4 among them."""
    fingerprint, others = real_heads(fold)
    for study in others:
        assert admit(study, fingerprint, ["MR"], AdmissionConfig()) == (), study.case


def test_the_gravest_comes_first(ask_ct, good_ct, changed):
    # Thin for training (a warning), and no Hounsfield units (a rejection).
    thin = Volume(good_ct.data_CIJK[..., :20], good_ct.affine)
    findings = list(ask_ct(changed(thin, lambda data: data / 1000)).values())
    assert [f.verdict for f in findings][:1] == ["reject"]
    assert {f.verdict for f in findings} == {"warn", "reject"}


def test_the_mode_and_each_check_can_be_turned_down_and_up(ask_ct, good_ct, changed):
    wrong = changed(good_ct, lambda data: data + 1024)
    assert ask_ct(wrong)["units"].verdict == "reject"
    assert ask_ct(wrong, mode="warn")["units"].verdict == "warn"
    assert ask_ct(wrong, mode="off") == {}
    assert ask_ct(wrong, units="warn")["units"].verdict == "warn"
    assert "units" not in ask_ct(wrong, units="off")
    thin = Volume(good_ct.data_CIJK[..., :20], good_ct.affine)
    assert ask_ct(thin)["field_of_view"].verdict == "warn"
    assert ask_ct(thin, field_of_view="reject")["field_of_view"].verdict == "reject"
    assert ask_ct(thin, mode="warn", field_of_view="reject")["field_of_view"].verdict == "warn"


def test_an_old_model_is_gated_by_what_it_has(ct, ask_ct, good_ct, changed):
    added = {"look", "size_percentiles_mm", "shape_percentiles", "spacing_percentiles_mm"}
    old = Fingerprint.model_validate_json(ct[0].model_dump_json(exclude=added))
    found = ask_ct(good_ct, fingerprint=old)
    assert {check: finding.verdict for check, finding in found.items()} == {"fingerprint": "warn"}
    assert "does not know" in found["fingerprint"].found
    tenfold = Volume(good_ct.data_CIJK, good_ct.affine @ np.diag([10, 10, 10, 1.0]))
    assert ask_ct(tenfold, fingerprint=old)["spacing"].verdict == "reject"
    unit = changed(good_ct, lambda data: (data - data.min()) / np.ptp(data))
    assert ask_ct(unit, fingerprint=old)["units"].verdict == "reject"
    assert ask_ct(good_ct, "MR", fingerprint=old)["modality"].verdict == "reject"


def test_the_number_of_channels_must_fit(ct, good_ct):
    with pytest.raises(ValueError, match="1 channels, model 2"):
        admit(as_study(good_ct), ct[0], ["CT", "CT"], AdmissionConfig())


def test_it_changes_nothing(ct, good_ct):
    before = good_ct.data_CIJK.copy()
    admit(as_study(good_ct), ct[0], ["CT"], AdmissionConfig())
    np.testing.assert_array_equal(good_ct.data_CIJK, before)


def test_a_large_study_takes_no_longer_than_reading_it_twice(ct):
    """13 times the voxels: were they all sorted or ranked, it would take seconds."""
    data = np.random.default_rng(0).normal(0, 300, (1, 320, 320, 256)).astype(np.float32)
    study = as_study(Volume(data, np.diag([0.8, 0.8, 1.0, 1.0])))
    start = time.perf_counter()
    admit(study, ct[0], ["CT"], AdmissionConfig())
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (2, 3, 1), (5, 5, 5), (40, 30, 1), (12, 12, 12), (200, 3, 7)]
)
@pytest.mark.parametrize("fill", ["noise", "constant", "huge"])
def test_no_shape_or_value_breaks_it(ask_ct, shape, fill):
    data = np.random.default_rng(0).normal(0, 100, (1, *shape)).astype(np.float32)
    data = {"noise": data, "constant": np.zeros_like(data), "huge": data * np.float32(1e34)}[fill]
    with np.errstate(all="raise", under="ignore"):
        ask_ct(Volume(data, np.diag([2.5, 2.5, 4, 1.0])))
