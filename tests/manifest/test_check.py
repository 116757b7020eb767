import dataclasses
import shutil

import pytest

from pipeline.files import sha256_of
from pipeline.manifest import check_manifest
from pipeline.study import StudyConfig


@pytest.fixture
def cases(write_case):
    return [write_case(name) for name in ("a", "b", "c")]


def test_a_good_data_set_has_no_findings(cases, make_manifest):
    assert check_manifest(make_manifest(*cases)) == []


def test_one_bad_case_does_not_stop_the_check(cases, make_manifest):
    cases[0].images[0].write_bytes(b"no image")
    cases[1].label.unlink()
    cases[2].images[0].write_bytes(b"")
    findings = check_manifest(make_manifest(*cases))
    assert [(finding.case, finding.severity) for finding in findings] == [
        ("a", "error"),
        ("b", "error"),
        ("c", "error"),
    ]
    assert findings[1].found == "b.nii.gz: the file does not exist"
    assert findings[1].remedy.startswith("Correct the path in the manifest")


def test_faults_within_and_between_cases_are_both_found(cases, make_manifest):
    shutil.copy(cases[0].images[0], cases[1].images[0])
    manifest = make_manifest(*cases, labels={"front": 1})
    found = [
        (finding.case, finding.severity, finding.found) for finding in check_manifest(manifest)
    ]
    undeclared = "label values 2 are not declared (declared: 1)"
    assert found == [
        ("a", "error", undeclared),
        ("b", "error", undeclared),
        ("c", "error", undeclared),
        ("b", "error", "the image has the same voxels as that of case a"),
    ]


def test_a_true_hash_is_no_finding(cases, make_manifest):
    hashed = [dataclasses.replace(case, sha256=sha256_of(*case.images)) for case in cases]
    assert check_manifest(make_manifest(*hashed)) == []


def test_the_studies_settings_decide_what_is_refused(cases, make_manifest):
    manifest = make_manifest(*cases)
    findings = check_manifest(manifest, StudyConfig(max_voxels=10))
    assert [(finding.case, finding.severity) for finding in findings[:1]] == [("a", "error")]


def test_a_fault_in_our_code_is_not_hidden(cases, make_manifest, monkeypatch):
    def broken(*_args, **_kwargs):
        raise RuntimeError("a bug")

    monkeypatch.setattr("pipeline.manifest.examine.read_study", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        check_manifest(make_manifest(*cases))


def test_real_data_are_clean(shared_data):
    from pipeline.manifest import load_manifest

    assert check_manifest(load_manifest(shared_data / "Task04_Hippocampus")) == []
