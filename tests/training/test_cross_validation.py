"""Whole cross-validations of three folds: members, out-of-fold results, interruptions."""

import csv
import json
import os
import shutil
import signal

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Events

from pipeline.errors import ConfigError
from pipeline.evaluation import evaluate_folders, write_scores
from pipeline.model import load_model
from pipeline.system.ownership import REPLACED
from pipeline.training import RunFolder, arithmetic, cross_validate, cross_validation, run, train

CPU = torch.device("cpu")
FOLDS = ("data.fold=all", "data.folds=3", "training.max_iterations=3")


@pytest.fixture(scope="module")
def finished(make_config, tmp_path_factory):
    result = cross_validate(make_config(tmp_path_factory.mktemp("folds"), *FOLDS))
    assert result.is_finished
    assert {summary.label for summary in result.summaries} >= {"mean"}
    return result.folder


def fold_folder(folder, fold):
    return RunFolder(folder.path / f"fold_{fold}")


def results_of(folder):
    return {path.name: path.read_bytes() for path in folder.validation.iterdir()}


def test_every_case_is_validated_once_by_the_member_that_never_saw_it(finished, manifest):
    with (finished.validation / "scores.csv").open() as file:
        keys = [(row["case"], row["label"]) for row in csv.DictReader(file)]
    assert len(set(keys)) == len(keys) == len(manifest.cases) * len(manifest.labels)
    seen = []
    for fold in range(3):
        of_fold = fold_folder(finished, fold)
        with (of_fold.validation / "scores.csv").open() as file:
            cases = {row["case"] for row in csv.DictReader(file)}
        assert not cases & set(json.loads(of_fold.split.read_text())["train"])
        for case in cases:
            for what in ("seg", "probabilities"):
                name = f"{case}_{what}.nii.gz"
                ours, theirs = (f.validation / name for f in (finished, of_fold))
                assert ours.read_bytes() == theirs.read_bytes()
        seen += cases
    assert sorted(seen) == sorted(case.name for case in manifest.cases)
    assert len(list(finished.validation.glob("*.png"))) == 3


def test_evaluating_all_masks_gives_the_same_scores(finished, manifest):
    scores = evaluate_folders(finished.validation, None, manifest=manifest).scores
    write_scores(scores, (), finished.path / "again")
    text = (finished.path / "again" / "scores.csv").read_text()
    assert text == (finished.validation / "scores.csv").read_text()


def test_probabilities_belong_to_the_masks(finished):
    paths = sorted(finished.validation.glob("*_probabilities.nii.gz"))
    assert len(paths) == 5
    values = np.array(load_model(finished.model, CPU).description.label_values)
    mask = paths[0].with_name(paths[0].name.replace("probabilities", "seg"))
    labels_IJK = np.asarray(nib.load(mask).dataobj)
    probabilities = nib.load(paths[0]).get_fdata()
    second, first = np.sort(probabilities, axis=3)[..., -2:].transpose(3, 0, 1, 2)
    clear = first - second > 1.5 / 255
    assert clear.any()
    assert np.array_equal(values[probabilities.argmax(axis=3)][clear], labels_IJK[clear])


def test_the_model_holds_every_member_in_its_order(finished):
    model = load_model(finished.model, CPU)
    members = [load_model(fold_folder(finished, fold).model, CPU) for fold in range(3)]
    assert model.description.name == "tiny"
    assert model.description.training["fold"] == "all"
    assert model.description.training["members"] == [member.sha256 for member in members]
    for network, member in zip(model.networks, members, strict=True):
        assert member.description.preprocessing == model.description.preprocessing
        weights = member.networks[0].state_dict()
        assert all(torch.equal(v, weights[k]) for k, v in network.state_dict().items())
    first, second, _ = (network.state_dict() for network in model.networks)
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_stopped_in_a_fold_it_goes_on_there(finished, make_config, tmp_path, monkeypatch):
    build, started = run.build_trainer, []

    def build_and_arm(*arguments):
        trainer = build(*arguments)
        started.append(trainer)
        if len(started) == 2:
            trainer.add_event_handler(
                Events.ITERATION_COMPLETED(once=2), lambda: os.kill(os.getpid(), signal.SIGTERM)
            )
        return trainer

    monkeypatch.setattr(run, "build_trainer", build_and_arm)
    config = make_config(tmp_path, *FOLDS)
    stopped = cross_validate(config)
    assert not stopped.is_finished
    assert not stopped.folder.model.exists()
    assert len(started) == 2
    checkpoint = torch.load(fold_folder(stopped.folder, 1).checkpoint, weights_only=True)
    assert checkpoint["iteration"] == 2
    with pytest.raises(ConfigError, match=r"exists already.*--resume"):
        cross_validate(config)

    before = fold_folder(stopped.folder, 0).checkpoint.stat().st_mtime_ns
    resumed = cross_validate(config, resume=True)
    assert resumed.is_finished
    assert len(started) == 4, "the first fold was finished and is left alone"
    assert fold_folder(resumed.folder, 0).checkpoint.stat().st_mtime_ns == before
    assert results_of(resumed.folder) == results_of(finished)
    ours, theirs = (load_model(folder.model, CPU) for folder in (resumed.folder, finished))
    for mine, other in zip(ours.networks, theirs.networks, strict=True):
        assert all(torch.equal(v, other.state_dict()[k]) for k, v in mine.state_dict().items())


def test_what_is_damaged_in_a_finished_fold_is_set_aside_and_made_again(
    finished, make_config, tmp_path, caplog, monkeypatch
):
    whole = results_of(finished)
    shutil.copytree(finished.path, tmp_path / "tiny")
    folder = RunFolder(tmp_path / "tiny")
    for fold in range(3):
        marker = fold_folder(folder, fold).finished
        marker.write_text(marker.read_text().replace(str(finished.path), str(folder.path)))
    mask = next(fold_folder(folder, 1).validation.glob("*_seg.nii.gz"))
    weights = fold_folder(folder, 2).model / "models" / "model.safetensors"
    for path in (mask, weights):
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert cross_validate(make_config(tmp_path, *FOLDS), resume=True).is_finished
    assert results_of(folder) == whole
    for path in (mask, weights):
        assert any(path.name in record.getMessage() for record in caplog.records)
        kept = (folder.path / REPLACED).rglob(path.name)
        assert any(aside.read_bytes().endswith(b"?") for aside in kept)
    # Once more there is nothing to do: what was decided on the model meanwhile stays.
    monkeypatch.setattr(cross_validation, "_join_members", None)
    again = cross_validate(make_config(tmp_path, *FOLDS), resume=True)
    assert again.is_finished
    assert {summary.label for summary in again.summaries} >= {"mean"}


def test_a_larger_budget_trains_every_fold_on_and_probabilities_can_be_left_out(
    make_config, tmp_path, monkeypatch
):
    """And all folds, then and later, compute as the first one chose."""
    choose, chosen = arithmetic._choose, []
    monkeypatch.setattr(arithmetic, "_choose", lambda *args: chosen.append(1) or choose(*args))
    words = ("data.fold=all", "data.folds=2", "training.out_of_fold_probabilities=false")
    config = make_config(tmp_path, *words, "training.max_iterations=1")
    folder = cross_validate(config).folder
    assert not list(folder.validation.glob("*probabilities*"))
    longer = make_config(tmp_path, *words, "training.max_iterations=2")
    assert cross_validate(longer, resume=True).is_finished
    for fold in range(2):
        checkpoint = torch.load(fold_folder(folder, fold).checkpoint, weights_only=True)
        assert checkpoint["iteration"] == 2
    assert len(chosen) == 1


def test_a_single_run_takes_a_single_fold(make_config, tmp_path):
    with pytest.raises(ValueError, match="cross_validate"):
        train(make_config(tmp_path, *FOLDS))


def test_the_model_knows_the_largest_label_change_of_its_members(finished):
    changes = [
        load_model(fold_folder(finished, fold).model, torch.device("cpu")).description.label_change
        for fold in range(3)
    ]
    joined = load_model(finished.model, torch.device("cpu")).description.label_change
    common = set.intersection(*map(set, changes))
    assert joined == {name: max(change[name] for change in changes) for name in common}
