"""The whole way, on random networks and with a refinement that knows the truth."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.cli.main import main
from pipeline.errors import ConfigError
from pipeline.model import hash_model, load_model, read_description
from pipeline.postprocessing import PostprocessingConfig
from pipeline.selection import clock, read_decision, search, search_postprocessing
from pipeline.selection.anatomy import Anatomy
from pipeline.selection.candidates import SMOOTHNESS_ONLY
from pipeline.selection.out_of_fold import CaseStore

CPU = torch.device("cpu")


def sabotage(image_CIJK, labels_IJK, uncertain, label_values, spacing_mm, config):
    """Make a mess of everything."""
    assert image_CIJK.dtype == np.float32
    assert len(uncertain.voxel_N)
    assert label_values == [0, 1, 2]
    assert spacing_mm == (1, 1, 1)
    return np.roll(labels_IJK, 5, axis=0)


def restore_inner(image_CIJK, labels_IJK, uncertain, label_values, spacing_mm, config):
    """Find the label `inner` where it is, and lose nearly all of `outer`, with one setting only."""
    if config != SMOOTHNESS_ONLY:
        return sabotage(image_CIJK, labels_IJK, uncertain, label_values, spacing_mm, config)
    after_IJK = labels_IJK.copy()
    is_inner = np.abs(image_CIJK[0] - 1) < 0.5
    after_IJK[labels_IJK == 1] = 0
    after_IJK[is_inner] = 1
    after_IJK[(labels_IJK == 2) & (image_CIJK[0] > 1.6)] = 0
    return after_IJK


@pytest.fixture
def run(finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def searched(finished_run, tmp_path_factory):
    run = tmp_path_factory.mktemp("searched") / "run"
    shutil.copytree(finished_run, run)
    return run, search_postprocessing(run / "model", refine=restore_inner)


def test_what_helps_one_label_is_chosen_for_that_label(searched):
    _, decision = searched
    assert decision.verdict == "accepted"
    assert decision.postprocessing.crf == SMOOTHNESS_ONLY
    assert decision.postprocessing.crf_labels == ("inner",)
    assert (decision.num_cases, decision.num_folds, len(decision.of_folds)) == (12, 3, 3)
    assert 0 < decision.low <= decision.gain <= decision.high
    assert decision.num_field_cases == 12
    assert "tried on 12 of 12 cases until all cases were done: accepted" in decision.reason
    inner, outer = decision.structures
    assert (inner.may_change, outer.may_change) == (True, False)
    assert inner.dice_after > inner.dice_before
    assert inner.hd95_after < inner.hd95_before
    assert [row.way for row in decision.scores[::3]] == [
        "none",
        "rules",
        "field",
        "field and rules",
    ]
    assert decision.scores[0].dice == inner.dice_before
    assert decision.scores[6].dice > inner.dice_before
    assert decision.ways["field"].endswith("on inner (chosen)")
    assert decision.postprocessing.largest_change["inner"] > 0


def test_the_model_uses_it_from_then_on_and_keeps_its_weights(searched, finished_run):
    run, decision = searched
    before, after = (load_model(path / "model", CPU) for path in (finished_run, run))
    assert after.description == before.description.model_copy(
        update={"postprocessing": decision.postprocessing}
    )
    for network, same in zip(after.networks, before.networks, strict=True):
        assert all(torch.equal(v, same.state_dict()[k]) for k, v in network.state_dict().items())
    assert after.sha256 != before.sha256
    assert read_decision(run / "model") == decision
    assert {path.name for path in (run / "model" / "postprocessing").iterdir()} == {
        "decision.json", "candidates.csv", "decision.png", "hashes.json",
    }  # fmt: skip
    assert not (run / "selection").exists()


def test_sabotage_is_refused_and_the_model_stays_as_it_is(run):
    before = read_description(run / "model")
    decision = search_postprocessing(run / "model", refine=sabotage)
    assert decision.postprocessing.crf is None
    settings = [c for c in decision.candidates if c.kind == "setting"]
    assert [c.num_cases for c in settings] == [3] * 4
    assert not any(candidate.passes for candidate in settings)
    assert "none of 4 far-apart settings gained enough on 3 cases" in decision.reason
    unchanged = before.model_copy(update={"postprocessing": decision.postprocessing})
    assert read_description(run / "model") == unchanged


def never(*_):
    raise AssertionError("no field is tried")


def test_nine_cases_take_what_anatomy_allows_if_it_costs_nothing(make_run, tmp_path):
    """Both labels are one piece in the one training case; the masks of noise are many."""
    run = make_run(tmp_path, 9, fold=0)
    decision = search_postprocessing(run / "model", refine=never)
    assert "9 validation cases, and fewer than 10" in decision.reason
    assert "proposed from 1 training labels" in decision.reason
    assert "inner: keep_largest 1; outer: keep_largest 1" in decision.proposed
    taken = decision.postprocessing
    assert decision.verdict == ("accepted" if taken.rules else "off")
    assert not taken.largest_change
    assert read_description(run / "model").postprocessing == taken
    assert read_decision(run / "model") == decision
    ways = {(row.way, row.label): row for row in decision.scores}
    for name in ("inner", "outer") if taken.rules else ():
        before, after = ways["none", name], ways["rules", name]
        assert after.dice >= before.dice
        assert after.nsd >= before.nsd
        assert after.hd95_mm <= before.hd95_mm
    again = search_postprocessing(run / "model", refine=never)
    assert (again.verdict, again.postprocessing) == (decision.verdict, taken)


def test_training_labels_that_there_was_no_time_to_read_are_not_blamed(
    make_run, tmp_path, monkeypatch
):
    run = make_run(tmp_path, 3, fold=0)
    monkeypatch.setattr("pipeline.selection.search.read_anatomy", lambda *_: Anatomy((), 2, 60))
    decision = search_postprocessing(run / "model", refine=never)
    assert "2 of 60 training labels were all there was time to read" in decision.reason


def test_without_validation_cases_nothing_is_applied(make_run, tmp_path):
    run = make_run(tmp_path, 0, fold=0)
    decision = search_postprocessing(run / "model", refine=never)
    assert (decision.verdict, decision.reason) == ("off", "off: no validation cases")
    assert decision.postprocessing == PostprocessingConfig()


def test_without_time_there_is_a_decision_on_rules(run):
    decision = search_postprocessing(run / "model", refine=never, seconds=0)
    assert "field, 0 settings tried on 0 of 10 cases: no time was left for it" in decision.reason
    assert "rules, on 10 of 12 validation cases, as many as there was time for: " in decision.reason
    assert decision.num_cases == 10
    assert {candidate.num_cases for candidate in decision.candidates} == {10}
    again = search_postprocessing(run / "model", refine=never, seconds=0)
    assert again.candidates == decision.candidates, "they are always the same cases"
    assert {candidate.kind for candidate in decision.candidates} >= {"rule"}
    assert {row.way for row in decision.scores} == {"none", "rules"}


def test_rules_are_scored_on_as_many_cases_as_the_time_allows(run, monkeypatch):
    """10 s a case, and a quarter of that for each that was done, for what follows.

    After 10 cases 35 s are needed for one more and 40 are left; after 11, 37.5 and 30.
    """
    seconds, make = [0.0], CaseStore._make

    def make_slowly(store, index):
        seconds[0] += 0.0 if store._is_made[index] else 10.0
        make(store, index)

    monkeypatch.setattr(CaseStore, "_make", make_slowly)
    monkeypatch.setattr(clock, "time", SimpleNamespace(monotonic=lambda: seconds[0]))
    decision = search_postprocessing(run / "model", refine=restore_inner, seconds=140)
    assert "rules, on 11 of 12 validation cases" in decision.reason
    assert "of 11 cases until all cases were done" in decision.reason
    assert (decision.num_cases, decision.num_folds, decision.num_field_cases) == (11, 3, 11)
    assert decision.postprocessing.crf_labels == ("inner",)


OLD = {"rules": [{"label": "inner", "keep_largest": 1}, {"label": "inner", "volume_ml": [0, 9]}]}


def with_old(run):
    path = run / "model" / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["trivox"]["postprocessing"] = OLD
    path.write_text(json.dumps(metadata))
    path.with_name("hashes.json").unlink()
    return PostprocessingConfig.model_validate(OLD)


def test_with_too_few_cases_post_processing_of_old_stays(make_run, tmp_path):
    run = make_run(tmp_path, 9)
    old = with_old(run)
    decision = search_postprocessing(run / "model")
    assert decision.verdict == "off"
    assert "what was configured stays" in decision.reason
    assert decision.replaced is None
    assert read_description(run / "model").postprocessing == old


def test_post_processing_of_old_is_replaced_and_recorded_but_what_warns_stays(make_run, tmp_path):
    run = make_run(tmp_path, 12)
    old = with_old(run)
    decision = search_postprocessing(run / "model", refine=lambda _image, labels, *_: labels)
    assert decision.verdict != "off"
    assert decision.replaced == old
    stays = read_description(run / "model").postprocessing
    assert stays.crf is None
    assert stays.rules[-1] == old.rules[1]
    assert sum(rule.volume_ml is not None for rule in stays.rules) == 1


def test_stopped_in_the_middle_it_goes_on_there_and_ends_alike(run, searched):
    calls = []

    def stop(*arguments):
        if len(calls) == 15:
            raise KeyboardInterrupt
        calls.append(1)
        return restore_inner(*arguments)

    before = hash_model(run / "model")
    with pytest.raises(KeyboardInterrupt):
        search_postprocessing(run / "model", refine=stop)
    assert hash_model(run / "model") == before
    assert len(list((run / "selection").glob("setting_*/*.npz"))) == 15
    assert len(list((run / "selection" / "uncertain").glob("*.npz"))) == 12

    def count(*arguments):
        calls.append(1)
        return restore_inner(*arguments)

    decision = search_postprocessing(run / "model", refine=count)
    assert len(calls) == 3 * 4 + 9, "what was done is not done again"
    assert decision.model_copy(update={"seconds": 0}) == searched[1].model_copy(
        update={"seconds": 0}
    )


def test_the_verbs_search_and_show(run, monkeypatch, capsys):
    monkeypatch.setattr(search, "random_field", lambda device: restore_inner)
    model = str(run / "model")
    assert main(["show", model]) == 0
    assert "not chosen on validation" in capsys.readouterr().out
    assert main(["postprocess-search", model, "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "decision on 12 validation cases: accepted; rules: " in said
    assert "field and rules" in said
    assert "decision.png" in said
    assert main(["show", model]) == 0
    shown = capsys.readouterr().out
    assert said in shown
    assert "members: 3" in shown
    assert main(["show", model, "data.root=x"]) == 2


def test_settings_that_would_change_the_cases_are_refused(run):
    with pytest.raises(ConfigError, match=r"data\.fold=1: .*data\.root"):
        search_postprocessing(run / "model", ["data.fold=1"], refine=sabotage)
