"""What a run learns from: the fingerprint of which cases, and folds of which."""

import dataclasses
import json
import re

import pytest

from pipeline.errors import ConfigError, ManifestError
from pipeline.manifest import SegmentCode, split_cases
from pipeline.training import RunFolder, prepare
from pipeline.training.data import open_manifest
from pipeline.training.prepare import describe_run, prepare_folds, prepare_run


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


def test_a_single_run_looks_at_its_training_cases_only(make_config, tmp_path, folder, split):
    config = make_config(tmp_path)
    prepared = prepare_run(config, folder)
    assert prepared.split == split
    assert prepared.fingerprint.num_cases == len(split.train) == 3
    assert not prepared.volumes_ml, "the manifest sets the split, so there is nothing to deal"
    description = describe_run(config, prepared)
    assert description.patch_size == (16, 16, 16)
    assert description.mirror_axes == ()
    mirrored = make_config(tmp_path, "augmentation.flip_axes=[A]")
    assert describe_run(mirrored, prepared).mirror_axes == ("A",)
    lenient = make_config(tmp_path, "admission.mode=warn")
    assert describe_run(lenient, prepared).admission.mode == "warn"


def test_the_description_says_how_masks_are_scored(make_config, tmp_path):
    config = make_config(tmp_path, "evaluation.nsd_tolerance_mm=3")
    prepared = prepare_run(config, RunFolder(tmp_path))
    ignoring = dataclasses.replace(prepared.manifest, ignore_value=99)
    scoring = describe_run(config, dataclasses.replace(prepared, manifest=ignoring)).scoring
    assert (scoring.nsd_tolerance_mm, scoring.ignore_value) == (3, 99)


@pytest.mark.parametrize("name", ["$print(1)", "@network", "%a.json", "_target_"])
def test_a_name_that_would_be_code_in_the_model_is_refused(make_config, tmp_path, folder, name):
    config = make_config(tmp_path)
    prepared = prepare_run(config, folder)
    others = dataclasses.replace(prepared.manifest, labels=prepared.manifest.labels | {name: 77})
    found = re.escape(f"'labels.{name}': MONAI") + ".* Use a name that begins with a letter"
    with pytest.raises(ManifestError, match=found):
        describe_run(config, dataclasses.replace(prepared, manifest=others))


def test_codes_of_labels_go_into_the_model(make_config, tmp_path, folder):
    config = make_config(tmp_path)
    prepared = prepare_run(config, folder)
    name = next(iter(prepared.manifest.labels))
    codes = {name: SegmentCode.model_validate({"type": ["12738006", "SCT", "Brain"]})}
    coded = dataclasses.replace(prepared.manifest, codes=codes)
    description = describe_run(config, dataclasses.replace(prepared, manifest=coded))
    assert description.codes == codes


def test_a_fold_of_a_split_that_the_manifest_sets_is_told_to_count_for_nothing(
    make_config, tmp_path, folder, split, caplog
):
    assert prepare_run(make_config(tmp_path, "data.fold=2"), folder).split == split
    assert caplog.messages == ["data.fold=2 is not used: the manifest says which cases validate"]


def test_folds_share_one_preprocessing_and_deal_all_cases_anew(make_config, tmp_path, folder):
    config = make_config(tmp_path, "data.fold=all", "data.folds=3")
    folds = prepare_folds(config, folder)
    assert len(folds) == 3
    manifest = open_manifest(config)
    names = sorted(case.name for fold in folds for case in fold.split.validation)
    assert names == sorted(case.name for case in manifest.cases)
    assert {id(fold.fingerprint) for fold in folds} == {id(folds[0].fingerprint)}
    assert folds[0].fingerprint.num_cases == 5
    assert folds[0].volumes_ml.keys() == set(names)
    assert {*folds[0].volumes_ml[names[0]]} == {*manifest.labels}


def open_splits(config, monkeypatch):
    """Let the manifest leave the split open."""
    manifest = open_manifest(config)
    cases = tuple(dataclasses.replace(case, split=None) for case in manifest.cases)
    manifest = dataclasses.replace(manifest, cases=cases)
    monkeypatch.setattr(prepare, "open_manifest", lambda _: manifest)
    return manifest


def test_an_open_split_follows_from_the_labels_of_the_cases(
    make_config, tmp_path, folder, monkeypatch
):
    config = make_config(tmp_path, "data.folds=2")
    manifest = open_splits(config, monkeypatch)
    prepared = prepare_run(config, folder)
    assert prepared.volumes_ml.keys() == {case.name for case in manifest.cases}
    assert prepared.split == split_cases(
        manifest, folds=2, fold=0, seed=0, volumes_ml=prepared.volumes_ml
    )


def test_a_begun_run_keeps_its_split_without_reading_a_case(
    make_config, tmp_path, folder, monkeypatch
):
    config = make_config(tmp_path, "data.folds=2")
    open_splits(config, monkeypatch)
    prepared = prepare_run(config, folder)
    folder.begin(config, prepared.recorded(prepared.split), prepared.fingerprint)
    monkeypatch.delattr(prepare, "read_cases")
    monkeypatch.delattr(prepare, "read_label_map")
    assert prepare_run(config, folder) == prepared
    assert json.loads(folder.split.read_text())["volumes_ml"] == prepared.volumes_ml


def test_more_folds_than_subjects_are_refused_before_any_reading(
    make_config, tmp_path, folder, monkeypatch
):
    monkeypatch.delattr(prepare, "read_cases")
    config = make_config(tmp_path, "data.fold=all", "data.folds=6")
    with pytest.raises(ManifestError, match="5 subjects cannot make 6 folds"):
        prepare_folds(config, folder)


def test_a_cross_validation_with_other_cases_is_not_resumed(
    make_config, tmp_path, folder, monkeypatch
):
    config = make_config(tmp_path, "data.fold=all", "data.folds=2")
    manifest = open_splits(config, monkeypatch)
    first = prepare_folds(config, folder)[0]
    everything = dataclasses.replace(first.split, train=manifest.cases, validation=manifest.cases)
    folder.begin(config, first.recorded(everything), first.fingerprint)
    fewer = dataclasses.replace(manifest, cases=manifest.cases[1:])
    monkeypatch.setattr(prepare, "open_manifest", lambda _: fewer)
    with pytest.raises(ConfigError, match=r"1 cases were added, removed or moved.*phantom_000"):
        prepare_folds(config, folder)


def test_labels_that_no_training_case_has_are_known_and_described(make_config, tmp_path, folder):
    config = make_config(tmp_path)
    prepared = prepare_run(config, folder)
    assert prepared.unseen == []
    assert "never_seen" not in describe_run(config, prepared).training
    name, *others = prepared.manifest.labels
    labels = {**prepared.manifest.labels, "declared": 999}
    more = dataclasses.replace(
        prepared, manifest=dataclasses.replace(prepared.manifest, labels=labels)
    )
    assert more.unseen == ["declared"]
    assert describe_run(config, more).training["never_seen"] == ["declared"]
    # In a fold, the fingerprint is of all cases.
    volumes = {
        case.name: {name: 0.0, **dict.fromkeys(others, 1.0)} for case in prepared.split.train
    }
    volumes[prepared.split.validation[0].name] = {name: 1.0}
    assert dataclasses.replace(prepared, volumes_ml=volumes).unseen == [name]
