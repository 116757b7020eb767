import dataclasses
import shutil

import pytest

from pipeline.manifest import check_manifest
from pipeline.study import StudyConfig
from pipeline.system.files import sha256_of


@pytest.fixture
def cases(write_case):
    sides = {"a": "train", "b": "validation", "c": "train"}
    return [dataclasses.replace(write_case(name), split=side) for name, side in sides.items()]


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


def untrainable(manifest):
    return [(f.case, f.severity, f.found) for f in check_manifest(manifest)]


def test_what_training_would_refuse_is_found(write_case, make_manifest):
    one, two = write_case("a"), write_case("b")
    found = "one subject: training needs a second one to validate"
    assert untrainable(make_manifest(one)) == [("(all cases)", "error", found)]
    halves = [dataclasses.replace(case, split="train") for case in (one, two)]
    ((_, severity, found),) = untrainable(make_manifest(*halves))
    assert (severity, found) == ("error", "2 cases are set to train and 0 to validation")
    mixed = make_manifest(halves[0], two)
    ((_, severity, found),) = untrainable(mixed)
    assert severity == "error"
    assert "1 of 2 cases have no split" in found


def test_few_subjects_are_told_with_the_folds_that_they_can_make(write_case, make_manifest):
    (finding,) = check_manifest(make_manifest(*(write_case(name) for name in "abc")))
    assert (finding.case, finding.severity) == ("(all cases)", "warning")
    assert "3 subjects" in finding.found
    assert "data.folds=3" in finding.remedy
    assert check_manifest(make_manifest(*(write_case(name) for name in "abcde"))) == []


def test_a_copy_counts_by_the_sides_that_the_manifest_sets(cases, make_manifest):
    shutil.copy(cases[0].images[0], cases[2].images[0])
    ((case, severity, found),) = untrainable(make_manifest(*cases))
    assert (case, severity) == ("c", "warning")
    assert "same voxels as that of case a" in found
