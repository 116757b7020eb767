import csv
import json
import shutil

import pytest

from pipeline.errors import ModelError
from pipeline.model import copy_model, hash_model, read_description, save_model
from pipeline.model.folder import EVIDENCE, load_model
from pipeline.postprocessing import PostprocessingConfig
from pipeline.selection import evidence
from pipeline.selection.evidence import (
    Decision,
    decision_in_effect,
    draw_decision,
    read_decision,
    store_decision,
)
from pipeline.selection.present import describe_decision
from pipeline.selection.records import CandidateRecord

CHOSEN = PostprocessingConfig.model_validate(
    {
        "rules": [{"label": "inner", "keep_largest": 1}],
        "crf": {"theta_position_mm": 3},
        "crf_labels": ["outer"],
        "largest_change": {"outer": 0.25},
    }
)
CANDIDATE = CandidateRecord(
    name="crf, with a comma",
    kind="setting",
    gain=0.0123456789,
    low=-0.1,
    high=0.2,
    worst_label="inner",
    worst_change=0.0,
    num_better=3,
    num_worse=2,
    passes=True,
)


def decide(**changes):
    fields = {
        "verdict": "accepted",
        "reason": "it helps",
        "postprocessing": CHOSEN,
        "num_cases": 12,
        "num_folds": 3,
        "candidates": (CANDIDATE,),
        "nsd_tolerance_mm": 1.0,
        "confidence": 0.95,
        "num_resamples": 5000,
        "versions": {},
        "seconds": 1.5,
    }
    return Decision(**(fields | changes))


@pytest.fixture
def folder(finished_run, tmp_path):
    shutil.copytree(finished_run / "model", tmp_path / "model")
    return tmp_path / "model"


def test_a_decision_is_read_back_as_it_was_and_in_effect(folder, description):
    assert read_decision(folder) is None
    before = hash_model(folder)
    store_decision(decide(), description, folder)
    assert read_decision(folder) == decide()
    assert read_description(folder).postprocessing == CHOSEN
    assert hash_model(folder) != before
    with (folder / "postprocessing" / "candidates.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["name"] == "crf, with a comma"
    assert float(row["gain"]) == 0.012346


def test_a_decision_without_candidates_has_no_picture_of_an_older_one(folder, description):
    store_decision(decide(), description, folder)
    assert (folder / evidence.PICTURE).is_file()
    off = decide(verdict="off", candidates=(), postprocessing=PostprocessingConfig())
    store_decision(off, description, folder)
    assert not (folder / evidence.PICTURE).exists()
    assert read_decision(folder) == off


def test_killed_on_the_way_the_model_is_used_as_it_was(folder, description, monkeypatch):
    before = hash_model(folder)

    def kill(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(evidence, "save_description", kill)
    with pytest.raises(KeyboardInterrupt):
        store_decision(decide(), description, folder)
    assert hash_model(folder) == before
    assert read_decision(folder) == decide()
    assert decision_in_effect(folder) is None
    monkeypatch.undo()
    store_decision(decide(), description, folder)
    assert decision_in_effect(folder) == decide()


OF_OLD = {
    "verdict": "accepted",
    "reason": "accepted: it helps",
    "proposed": "x",
    "postprocessing": {"rules": [{"label": "inner", "keep_largest": 1}]},
    "replaced": None,
    "num_cases": 12,
    "num_folds": 3,
    "of_folds": ["x", "x", "x"],
    "gain": 0.01,
    "low": 0.0,
    "high": 0.02,
    "structures": [
        {
            "name": "inner",
            "may_change": True,
            "num_cases": 12,
            "dice_before": 0.5,
            "dice_after": 0.6,
            "nsd_before": 0.5,
            "nsd_after": 0.6,
        }
    ],
    "candidates": [CANDIDATE.model_dump(include=set(list(CandidateRecord.model_fields)[:10]))],
    "nsd_tolerance_mm": 1.0,
    "confidence": 0.95,
    "num_resamples": 5000,
    "versions": {},
    "seconds": 1.0,
}
"""As it was stored before there was HD95 in decisions."""


def test_a_decision_of_earlier_versions_is_read_and_shown(folder):
    path = folder / evidence.DECISION
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(OF_OLD))
    decision = read_decision(folder)
    assert (decision.gain, decision.hd95_gain, decision.scores) == (0.01, None, ())
    draw_decision(decision.candidates, decision.structures, "", folder / "old.png")
    assert any("accepted: it helps" in str(line) for line in describe_decision(decision, folder))


def test_evidence_goes_with_copies_and_leaves_with_its_model(folder, description, tmp_path):
    store_decision(decide(), description, folder)
    copy_model(folder, tmp_path / "copy")
    assert read_decision(tmp_path / "copy") == decide()
    assert hash_model(tmp_path / "copy") == hash_model(folder)
    save_model(load_model(folder, "cpu"), folder)
    assert not (folder / EVIDENCE).exists()


def test_a_torn_decision_says_what_to_do(folder, description):
    store_decision(decide(), description, folder)
    (folder / evidence.DECISION).write_text("{")
    with pytest.raises(ModelError, match=r"decision\.json: .*postprocess-search"):
        read_decision(folder)
