import json
import shutil

import numpy as np
import pytest

from pipeline.errors import ConfigError, ManifestError, ModelError
from pipeline.selection.finished_run import NUM_FOLDS, deal_folds, open_run


@pytest.fixture
def run(finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "run")
    return tmp_path / "run"


def test_each_case_goes_to_the_member_that_never_saw_it(finished_run):
    run = open_run(finished_run / "model")
    assert len(run.members) == 3
    for number, member in enumerate(run.members):
        split = json.loads((member.model.parent / "split.json").read_text())
        assert not {case.name for case in member.cases} & set(split["train"])
        assert {run.fold_N[run.cases.index(case)] for case in member.cases} == {number}
    assert len(run.cases) == len(set(run.cases)) == len(run.fold_N) == 12


def test_a_run_of_one_fold_is_dealt_anew(make_run, tmp_path):
    run = open_run(make_run(tmp_path, 12, fold=0) / "model")
    (member,) = run.members
    assert member.model == run.folder.model
    assert len(run.cases) == 12
    assert sorted(np.bincount(run.fold_N)) == [2, 2, 2, 3, 3]


def test_folds_keep_subjects_together_and_close_in_size():
    subjects = ["a"] * 4 + ["b"] * 2 + [f"s{number}" for number in range(14)]
    fold_N = deal_folds(subjects, seed=3)
    assert len(set(fold_N[:4])) == len(set(fold_N[4:6])) == 1
    assert sorted(np.bincount(fold_N)) == [4] * NUM_FOLDS
    np.testing.assert_array_equal(fold_N, deal_folds(subjects, seed=3))
    assert not np.array_equal(fold_N, deal_folds(subjects, seed=4))
    assert set(deal_folds(["a", "b", "a"], seed=0)) == {0, 1}


def test_a_model_outside_of_its_run_is_refused(run, tmp_path):
    shutil.copytree(run / "model", tmp_path / "elsewhere" / "model")
    with pytest.raises(ModelError, match=r"lies in no run's folder.*runs/liver/model"):
        open_run(tmp_path / "elsewhere" / "model")
    with pytest.raises(ModelError, match="no model here"):
        open_run(run)


def test_a_missing_member_is_named(run):
    shutil.rmtree(run / "fold_1" / "model")
    with pytest.raises(ModelError, match=r"fold_1.model: no model here"):
        open_run(run / "model")
    shutil.rmtree(run / "fold_1")
    with pytest.raises(ConfigError, match=r"fold_1: this fold .* is missing"):
        open_run(run / "model")


def test_data_that_moved_can_be_pointed_to(make_run, tmp_path):
    run = make_run(tmp_path / "old", 12)
    shutil.move(tmp_path / "old" / "data", tmp_path / "data")
    with pytest.raises(ManifestError):
        open_run(run / "model")
    found = open_run(run / "model", [f"data.manifest={tmp_path / 'data'}"])
    assert all(case.label.is_relative_to(tmp_path / "data") for case in found.cases)
    (tmp_path / "data" / "images" / "c03.nii.gz").unlink()
    with pytest.raises(ManifestError, match=r"1 of 24 files are missing.*c03.*data\.root="):
        open_run(run / "model", [f"data.manifest={tmp_path / 'data'}"])


def test_another_data_set_is_refused(finished_run, run, make_run, tmp_path):
    make_run(tmp_path / "fewer", 3)
    with pytest.raises(ManifestError, match=r"\d of 4 validation cases of .*fold_0 are not listed"):
        open_run(run / "model", [f"data.manifest={tmp_path / 'fewer' / 'data'}"])


def test_a_link_to_a_model_is_in_the_run_that_it_leads_to(run, tmp_path):
    (tmp_path / "mine").symlink_to(run / "model")
    assert open_run(tmp_path / "mine").folder.path == run.resolve()


def test_a_run_of_some_cases_keeps_their_members_and_folds(finished_run):
    run = open_run(finished_run / "model")
    cases = [0, 5, 6, 11]
    fewer = run.only(cases)
    assert fewer.cases == tuple(run.cases[index] for index in cases)
    assert fewer.fold_N.tolist() == run.fold_N[cases].tolist() == [0, 1, 1, 2]
    assert [len(member.cases) for member in fewer.members] == [1, 2, 1]
    assert [member.model for member in fewer.members] == [member.model for member in run.members]
