"""What is scored and how: from the JSON files beside masks, a manifest, or the user."""

import json
import logging
from pathlib import Path

import pytest

from pipeline.errors import ConfigError, ManifestError
from pipeline.evaluation import EvaluationConfig
from pipeline.evaluation.rules import find_rules
from pipeline.manifest import Case, Channel, Manifest, Region

LABELS = {"edema": 1, "necrosis": 2}
REGIONS = [
    {"name": "whole", "labels": ["edema", "necrosis"], "writes": "edema"},
    {"name": "core", "labels": ["necrosis"], "writes": "necrosis"},
]
SCORING = {"ignore_value": 254, "nsd_tolerance_mm": 2.5, "num_resamples": 7}


@pytest.fixture
def beside(tmp_path):
    """Write what lies beside the masks of cases; return where."""

    def write(**contents):
        files = {}
        for case, content in contents.items():
            path = tmp_path / f"{case}_seg.json"
            path.write_text(json.dumps(content))
            files[case] = path, "Trivox" in content or "SkullStripped" in content
        return files

    return write


def record(**content):
    return {"labels": LABELS, "regions": REGIONS, "scoring": SCORING, **content}


def make_manifest(**changes):
    content = {
        "path": Path("m.yaml"),
        "name": "",
        "description": "",
        "origin": "",
        "licence": "",
        "channels": (Channel("CT", "CT"),),
        "labels": {"tumour": 2, "edema": 1},
        "cases": (Case("a", (Path("i.nii"),), None, "a", annotated=("edema",)),),
        "ignore_value": 9,
    }
    return Manifest(**{**content, **changes})


@pytest.mark.parametrize("in_sidecar", [False, True])
def test_all_is_taken_from_beside_the_masks(beside, in_sidecar):
    content = record(annotated=["necrosis"])
    rules = find_rules(beside(a={"Manual": False, "Trivox": content} if in_sidecar else content))
    assert rules.config == EvaluationConfig(**SCORING)
    # The whole is not annotated where edema is not.
    assert rules.structures("a") == {"core": (2,)}
    assert rules.structures("b") == {"whole": (1, 2), "core": (2,)}


def test_earlier_versions_name_labels_alone(beside, caplog):
    rules = find_rules(beside(a={"labels": LABELS}))
    assert "--manifest" in caplog.text
    assert rules.structures("a") == LABELS
    assert rules.config == EvaluationConfig()


def test_sidecars_of_other_tools_say_nothing(beside):
    assert find_rules(beside(a={"SkullStripped": False})).labels == {}


def test_the_user_goes_before_all_and_a_manifest_before_the_files(beside, caplog):
    config = EvaluationConfig(nsd_tolerance_mm=4)
    rules = find_rules(beside(a=record()), config, manifest=make_manifest())
    assert rules.structures("a") == {"edema": 1}
    assert list(rules.structures("b").items()) == [("edema", 1), ("tumour", 2)]
    assert rules.config == EvaluationConfig(
        nsd_tolerance_mm=4, ignore_value=9, num_resamples=SCORING["num_resamples"]
    )
    assert "necrosis" in caplog.text
    none = find_rules(beside(a=record()), EvaluationConfig(ignore_value=None))
    assert none.config.ignore_value is None


@pytest.mark.parametrize(
    ("other", "found"),
    [
        ({"scoring": {**SCORING, "ignore_value": None}}, "ignore_value=None.*set ignore_value="),
        ({"scoring": {**SCORING, "nsd_tolerance_mm": 1}}, "nsd_tolerance_mm=1.*nsd_tolerance_mm="),
        ({"regions": REGIONS[:1]}, r"regions \['whole'\] contradict.*--manifest"),
        ({"regions": []}, "regions.*contradict"),
        ({"labels": {"edema": 2}}, "labels.*contradict"),
    ],
)
def test_files_that_contradict_each_other_are_refused(beside, other, found):
    files = beside(a=record(), b=record(**other))
    with pytest.raises(ConfigError, match=f"b_seg.json: .*{found}"):
        find_rules(files)
    # What the remedies name settles it.
    config = EvaluationConfig(ignore_value=None, nsd_tolerance_mm=1)
    assert find_rules(files, config, manifest=make_manifest()).labels


def test_files_that_say_less_contradict_nothing(beside):
    rules = find_rules(beside(a={"labels": LABELS}, b=record()))
    assert rules.config.ignore_value == 254
    assert [region.name for region in rules.regions] == ["whole", "core"]


def test_two_models_in_a_folder_are_said(beside, caplog):
    def made_by(sha256):
        return record(recipe={"model": {"name": "liver", "sha256": sha256}})

    with caplog.at_level(logging.WARNING):
        find_rules(beside(a=made_by("12345678"), b=made_by("12345678")))
        assert not caplog.records
        find_rules(beside(a=made_by("12345678"), b=made_by("abcdefgh")))
    assert "2 models" in caplog.text
    assert "abcdefgh" in caplog.text


@pytest.mark.parametrize(
    "content",
    [
        record(regions=[{"name": "x"}]),
        record(scoring={"ignore_value": -3}),
        record(scoring={"both_empty": "one"}),
    ],
)
def test_rules_that_this_version_does_not_know_are_refused(beside, content):
    with pytest.raises(ConfigError, match=r"a_seg\.json"):
        find_rules(beside(a=content))


@pytest.mark.parametrize(
    "changes",
    [{"regions": (Region("x", ("unknown",), "unknown"),)}, {"ignore_value": 2}],
)
def test_rules_that_do_not_fit_the_labels_are_refused(changes):
    with pytest.raises(ManifestError, match=r"m\.yaml"):
        find_rules({}, manifest=make_manifest(**changes))


def test_cases_that_the_model_was_trained_on_are_named(beside, caplog):
    known = {"check": "training_case", "verdict": "warn", "found": "known", "remedy": "Leave it."}
    other = known | {"check": "a check of a later version"}
    with caplog.at_level(logging.WARNING):
        find_rules(beside(a=record(admission=[other]), b=record(admission=[other, known])))
    assert "trained on 1 of 2 cases" in caplog.text
    assert caplog.text.rstrip().endswith(": b")
