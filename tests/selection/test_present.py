import json
import shutil

import pytest
from rich.console import Console

from pipeline.errors import ModelError
from pipeline.model import save_description
from pipeline.postprocessing import PostprocessingConfig
from pipeline.selection.evidence import Decision, store_decision
from pipeline.selection.present import (
    describe_decision,
    describe_model,
    summarise_decision,
    weaknesses,
)
from pipeline.selection.records import CandidateRecord, ScoreRecord, StructureRecord


def candidate(number, **changes):
    fields = {
        "name": f"[setting] {number}",
        "kind": "setting",
        "gain": number / 1000,
        "low": -0.001,
        "high": 0.2,
        "worst_label": "inner",
        "worst_change": -0.25,
        "num_better": 7,
        "num_worse": 5,
        "passes": False,
    }
    return CandidateRecord(**(fields | changes))


DECISION = Decision(
    verdict="refused",
    reason="refused: a gain by chance looks like that",
    proposed="crf of some sort",
    replaced=PostprocessingConfig.model_validate(
        {"rules": [{"label": "inner", "keep_largest": 2}]}
    ),
    num_cases=12,
    num_folds=3,
    structures=(
        StructureRecord(
            name="inner",
            may_change=True,
            num_cases=11,
            dice_before=0.5,
            dice_after=0.51239,
            nsd_before=0.25,
            nsd_after=0.75,
            hd95_before=14.25,
            hd95_after=3.5,
        ),
    ),
    candidates=(*(candidate(n) for n in range(15)), candidate(0, name="x", kind="proposed")),
    scores=tuple(
        ScoreRecord(
            way=way,
            label=label,
            num_cases=12,
            dice=dice,
            nsd=None,
            hd95_mm=hd95_mm,
            volume_error_percent=12.81,
        )
        for way, dice, hd95_mm in (("none", 0.5, 14.25), ("rules", 0.625, 3.5))
        for label in ("inner", "mean")
    ),
    ways={"none": "labels as they are", "rules": "[inner]: keep_largest 1 (not chosen)"},
    nsd_tolerance_mm=2.5,
    confidence=0.95,
    num_resamples=5000,
    versions={},
    seconds=1.0,
)


@pytest.fixture
def folder(finished_run, tmp_path):
    shutil.copytree(finished_run / "model", tmp_path / "model")
    return tmp_path / "model"


def printed(lines):
    console = Console(width=120, record=True, file=None, quiet=False)
    with console.capture() as capture:
        for line in lines:
            console.print(line, markup=False, soft_wrap=isinstance(line, str))
    return capture.get()


def test_a_decision_shows_the_best_candidates_and_each_label(folder):
    text = " ".join(printed(describe_decision(DECISION, folder)).split())
    assert "decision on 12 validation cases: refused: a gain by chance" in text
    assert "refused was: crf of some sort" in text
    assert "post-processing: none" in text
    assert "replaced: inner: keep_largest 2" in text
    assert "all that is proposed" in text
    assert "[setting] 14" in text
    assert "[setting] 4 " in text
    assert "[setting] 3 " not in text
    assert "4 more in candidates.csv" in text
    assert "[-0.0010, +0.2000]" in text
    assert "inner -0.2500" in text
    assert "0.5124" in text
    assert "NSD at 2.5 mm" in text
    assert "14.25 3.50" in text
    assert "evidence:" not in text


def test_the_scores_without_and_with_clean_up_stand_above_the_decision(folder):
    text = printed(summarise_decision(DECISION, folder))
    rows = [line.split() for line in text.splitlines() if "+12.8" in line]
    assert rows == [
        ["none", "(chosen)", "inner", "12", "0.5000", "-", "14.25", "+12.8"],
        ["mean", "12", "0.5000", "-", "14.25", "+12.8"],
        ["rules", "inner", "12", "0.6250", "-", "3.50", "+12.8"],
        ["mean", "12", "0.6250", "-", "3.50", "+12.8"],
    ]
    assert "rules: [inner]: keep_largest 1 (not chosen)" in text
    assert text.index("+12.8") < text.index("decision on 12 validation cases: refused")


def test_a_model_is_described_by_what_its_user_must_know(folder, description):
    used = PostprocessingConfig.model_validate(
        {
            "rules": [{"label": "inner", "keep_largest": 1}],
            "crf": {"theta_position_mm": 6},
            "crf_labels": ["outer"],
            "largest_change": {"outer": 0.125},
        }
    )
    save_description(
        description.model_copy(update={"postprocessing": used, "label_change": {"bf16": 0.0012}}),
        folder,
    )
    text = printed(describe_model(folder))
    for expected in (
        "model: tiny (",
        "labels: inner 1, outer 2",
        "channels: T1 (MR, zscore_robust)",
        "spacing: 1 x 1 x 1 mm",
        "network: unet, features 2-4-4, patches of 8 x 8 x 8 voxels",
        "members: 3",
        "trained on: 12 cases of cubes, fold all of 3",
        "precision: fp32 (of foreground labels, bf16 changes 0.12%)",
        "post-processing: crf 6 mm, intensity 0.5 x 3, smoothing x 1, on outer",
        "post-processing: inner: keep_largest 1",
        "post-processing: largest change seen on validation: outer 12.5%",
        "not chosen on validation: trivox postprocess-search",
    ):
        assert expected in text


def test_a_model_whose_hashes_are_not_kept_says_so(folder):
    assert "no hash is kept" not in printed(describe_model(folder))
    (folder / "configs" / "hashes.json").unlink()
    assert "no hash is kept: of configs/metadata.json; damage to it cannot be told" in printed(
        describe_model(folder)
    )


def test_a_decision_that_is_not_in_effect_is_told_apart(folder, description):
    store_decision(DECISION, description, folder)
    assert "is not the one that was decided on" not in printed(describe_model(folder))
    path = folder / "configs" / "metadata.json"
    content = json.loads(path.read_text())
    content["trivox"]["postprocessing"] = {"rules": [{"label": "inner", "keep_largest": 1}]}
    path.write_text(json.dumps(content))
    path.with_name("hashes.json").unlink()
    text = printed(describe_model(folder))
    assert "is not the one that was decided on" in text
    assert "refused: a gain by chance" in text


def test_no_model(tmp_path):
    with pytest.raises(ModelError, match="no model here"):
        describe_model(tmp_path)


@pytest.mark.parametrize("unseen", [["inner"], {"fold 0": [], "fold 1": ["inner"]}])
def test_labels_that_a_model_does_not_know_are_told(folder, description, unseen):
    assert "inner" not in " ".join(map(str, weaknesses(folder)))
    notes = {**description.training, "never_seen": unseen, "never_found": ["outer"]}
    save_description(description.model_copy(update={"training": notes}), folder)
    (seen, found) = printed(weaknesses(folder)).splitlines()
    assert "never seen" in seen
    assert "inner" in seen
    assert ("fold 1" in seen) == isinstance(unseen, dict)
    assert "fold 0" not in seen
    assert "Dice of outer is 0" in found
    assert seen in printed(describe_model(folder))
