"""The way through the gate; what each check finds is tested in tests/gate."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.cohort import SegmentOptions
from pipeline.cohort.gate import look_at_volumes, look_over, pass_gate
from pipeline.cohort.request import Job
from pipeline.cohort.stages import load, segment, write
from pipeline.errors import StudyError
from pipeline.fingerprint import take_fingerprint
from pipeline.gate import AdmissionConfig
from pipeline.journal import Row
from pipeline.model.description import TrainingCases
from pipeline.output import read_provenance
from pipeline.output.places import Outputs
from pipeline.segmentation import STAGES, Segmenter
from pipeline.study import StudyInput, read_study
from pipeline.volume import LabelMap, hash_voxels


@pytest.fixture
def study(tmp_path, save_volume):
    path = save_volume(tmp_path / "a.nii.gz")
    return read_study([path], case="a", num_channels=1)


def with_range(model, spacing_mm, **settings):
    """The model as if it had been trained on another spacing."""
    fingerprint = model.description.fingerprint.model_copy(
        update={"spacing_range_mm": (spacing_mm, spacing_mm)}
    )
    admission = AdmissionConfig(**settings)
    changes = {"fingerprint": fingerprint, "admission": admission}
    return replace(model, description=model.description.model_copy(update=changes))


def test_what_is_odd_becomes_a_warning(study, model):
    passed, findings = pass_gate(study, with_range(model, (4.5, 3.0, 6.0)).description)
    assert [(f.check, f.verdict) for f in findings] == [
        ("fingerprint", "warn"),
        ("spacing", "warn"),
    ]
    assert passed.warnings == tuple(str(finding) for finding in findings)
    assert passed.volume is study.volume


def test_what_must_not_be_segmented_is_refused(study, model):
    with pytest.raises(StudyError, match=r"a: voxels measure 1\.5 mm .*admission\.spacing=warn"):
        pass_gate(study, with_range(model, (15.0, 10.0, 20.0)).description)
    passed, _ = pass_gate(study, with_range(model, (15.0, 10.0, 20.0), mode="warn").description)
    assert any("spacing" in warning for warning in passed.warnings)


def test_mirrored_training_takes_mirrored_studies(model, study):
    """Bright on the left and at the back: cases tell a flip, unless mirrored in training."""
    rng = np.random.default_rng(0)
    wedge = np.linspace(100, 0, 12)[:, None, None] + np.linspace(0, 150, 14)[:, None]

    def case():
        data = (wedge + rng.normal(0, 5, (1, 12, 14, 10))).astype(np.float32)
        return replace(study.volume, data_CIJK=data)

    cases = [case() for _ in range(10)]
    labels = LabelMap(np.ones((12, 14, 10), np.uint8), study.volume.affine)
    fingerprint = take_fingerprint([(each, labels) for each in cases], 0)
    description = model.description.model_copy(update={"fingerprint": fingerprint})
    flipped = replace(
        study, volume=replace(study.volume, data_CIJK=np.flip(case().data_CIJK, 1).copy())
    )
    assert [finding.check for finding in look_over(flipped, description)] == ["flip"]
    mirrored = description.model_copy(update={"mirror_axes": ("R",)})
    assert look_over(flipped, mirrored) == ()


def test_a_refused_study_leaves_no_mask_and_says_why(tmp_path, model, save_volume):
    path, out = save_volume(tmp_path / "in" / "a.nii.gz"), tmp_path / "out"
    out.mkdir()
    strict = with_range(model, (15.0, 10.0, 20.0))
    job = Job(strict, Segmenter(strict, torch.device("cpu")), out, SegmentOptions())
    row = load(StudyInput("a", (path,)), job)
    assert isinstance(row, Row)
    assert row.status == "rejected"
    assert "in training 15 to 15 mm" in row.reason
    assert not list(out.iterdir())


def test_provenance_keeps_findings_warnings_and_time(tmp_path, model, save_volume):
    path, out = save_volume(tmp_path / "in" / "a.nii.gz"), tmp_path / "out"
    out.mkdir()
    odd = with_range(model, (4.5, 3.0, 6.0))
    job = Job(odd, Segmenter(odd, torch.device("cpu")), out, SegmentOptions())
    write(segment(load(StudyInput("a", (path,)), job), job, 0, lambda *_: None), job)
    provenance = read_provenance(Outputs(out, "a").provenance)
    assert [finding.check for finding in provenance.admission] == ["fingerprint", "spacing"]
    assert any(warning.startswith("spacing: ") for warning in provenance.warnings)
    assert provenance.timing.seconds["admission"] > 0
    assert list(STAGES[:3]) == ["load", "admission", "preprocess"]


def test_a_mask_of_odd_volume_is_told_or_refused(tmp_path, model, save_volume):
    path, out = save_volume(tmp_path / "in" / "a.nii.gz"), tmp_path / "out"
    out.mkdir()
    huge = {"value": 1, "num_cases": 100, "volume_ml": (5e5, 6e5, 7e5), "range_ml": (4e5, 8e5)}
    seen = model.description.fingerprint.model_dump() | {"num_cases": 100, "labels": [huge]}
    description = type(model.description).model_validate(
        model.description.model_dump(mode="json") | {"fingerprint": seen}
    )
    odd = replace(model, description=description)
    job = Job(odd, Segmenter(odd, torch.device("cpu")), out, SegmentOptions())
    row = write(segment(load(StudyInput("a", (path,)), job), job, 0, lambda *_: None), job)
    assert row.status == "done"
    (warning,) = [text for text in row.warnings if text.startswith("volume: ")]
    assert "liver" in warning
    assert "400000 to 800000 ml" in warning
    assert read_provenance(Outputs(out, "a").provenance).admission[-1].check == "volume"
    strict = description.model_copy(update={"admission": AdmissionConfig(volume="reject")})
    with pytest.raises(StudyError, match=r"liver.*admission\.volume=warn"):
        look_at_volumes("a", row.volumes_ml, strict)


def test_a_study_that_the_model_was_trained_on_is_told(study, model):
    known = TrainingCases.of([hash_voxels(study.volume)])

    def checks(*cases, **settings):
        changes = {"training_cases": cases, "admission": AdmissionConfig(**settings)}
        description = model.description.model_copy(update=changes)
        return [finding.check for finding in look_over(study, description)]

    assert "training_case" in checks(known)
    assert "training_case" not in checks()
    assert "training_case" not in checks(TrainingCases.of(["0" * 64]))
    assert "training_case" not in checks(known, training_case="off")
    assert checks(known, mode="off") == []
