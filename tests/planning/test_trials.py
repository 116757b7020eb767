from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.errors import TrainingError
from pipeline.manifest import Case
from pipeline.planning import trials
from pipeline.planning.trial_ground import SHARE, TRAINING, TrialResult
from pipeline.planning.trials import (
    DOUBT,
    FEWEST_STEPS,
    Trials,
    contenders,
    first_round_gflops,
    hold_out,
    hold_trials,
)
from tests.planning.fakes import FakePricer, make_prospect


def test_only_near_losses_of_other_voxels_or_patches_are_in_doubt():
    best = make_prospect(5.0, 0.1)
    same_spacing = make_prospect(5.0, 0.101, width=8)
    # A voxel of (5 / 4)^3 = 1.95 times the volume is another one, one of (5 / 4.2)^3 = 1.69 not.
    alike, near, too_large = (
        make_prospect(4.2, 0.1015),
        make_prospect(4.0, 0.102),
        make_prospect(9.0, 0.103),
    )
    seen = make_prospect(5.0, 0.102)
    shape = replace(seen.candidate.shape, patch_size=(16, 16, 32))
    seen = replace(seen, candidate=replace(seen.candidate, shape=shape))
    far = make_prospect(3.0, 0.1 + 1.1 * DOUBT)
    everything = [best, same_spacing, alike, near, too_large, seen, far]
    assert contenders(everything, FakePricer(), memory_gb=8.0) == [best, near, seen]


def test_the_work_of_all_rounds_is_a_share_of_the_minutes():
    four = [make_prospect(spacing) for spacing in (1.0, 2.0, 3.0, 4.0)]
    gflops = first_round_gflops(four, FakePricer(), minutes=60)
    # A step of the first takes 0.01 s and 1 GFLOP. Four trials, then two of twice the work.
    assert gflops * (4 + 2 * 2) == pytest.approx(SHARE * TRAINING * 3600 * 100)
    assert first_round_gflops(four[:2], FakePricer(), 60) * 2 == pytest.approx(8 * gflops)
    assert first_round_gflops(four[:1], FakePricer(), 60) is None
    # One that takes twice as long for its arithmetic halves it for all.
    slow = replace(four[0], seconds=0.02)
    assert first_round_gflops([*four[1:], slow], FakePricer(), 60) == pytest.approx(gflops / 2)


def test_trials_too_short_to_say_anything_are_not_held():
    two = [make_prospect(1.0), make_prospect(2.0)]
    seconds = 2 * 2 * FEWEST_STEPS * 0.01 / (SHARE * TRAINING)
    assert first_round_gflops(two, FakePricer(), 1.01 * seconds / 60) is not None
    assert first_round_gflops(two, FakePricer(), 0.99 * seconds / 60) is None


def test_subjects_that_score_are_not_learnt_from():
    cases = [Case(str(n), (), None, f"subject {n // 2}") for n in range(100)]
    split = hold_out(cases)
    assert 0 < len(split.validation) <= trials.HELD_OUT
    assert 0 < len(split.train) <= trials.MOST_CASES
    learnt = {case.subject for case in split.train}
    assert not learnt & {case.subject for case in split.validation}
    # Spread over all, since lists are often in an order that means something.
    assert {int(case.name) // 25 for case in split.train} == {0, 1, 2, 3}
    assert hold_out(cases[:2]).validation == ()


@pytest.fixture
def choice(tmp_path):
    """What hold_trials needs of a choice."""
    return SimpleNamespace(request=SimpleNamespace(out=tmp_path / "plans" / "mine.yaml"))


@pytest.fixture
def scripted(monkeypatch):
    """Trials whose result follows from the spacing; a list of what was held."""
    held = []

    def hold(self, prospect, steps):
        held.append((prospect.candidate.spacing_mm[0], steps))
        dice = 1 - 0.1 * prospect.candidate.spacing_mm[0]
        return TrialResult(prospect, steps, dice, 0.0, 1 - dice)

    monkeypatch.setattr("pipeline.planning.trials.TrialGround.hold", hold)
    monkeypatch.setattr(
        "pipeline.planning.trials.TrialGround.affordable", lambda ground, *_: ground
    )
    return held


def test_halves_go_on_with_twice_the_work(scripted, choice):
    four = [make_prospect(spacing) for spacing in (4.0, 3.0, 2.0, 1.0)]
    cases = [Case(str(n), (), None, str(n)) for n in range(20)]
    pricer = FakePricer()
    found = hold_trials(four, choice, None, cases, pricer, minutes=60).results
    assert [trial.prospect.candidate.spacing_mm[0] for trial in found] == [1.0, 2.0, 3.0, 4.0]
    assert [spacing for spacing, _ in scripted] == [4, 3, 2, 1, 1, 2]
    work = [spacing * steps for spacing, steps in scripted]
    # Equal counted work in a round, but for the part of a step; twice as much in the next.
    np.testing.assert_allclose(work[:4], work[0], rtol=0.01)
    np.testing.assert_allclose(work[4:], 2 * work[0], rtol=0.01)


def test_fewer_are_tried_where_the_minutes_hold_no_more(scripted, choice):
    """Three take 3 + 2 * 2 shares of the work, two take 2; the third's steps cost 3 GFLOP each."""
    three = [make_prospect(spacing) for spacing in (1.0, 2.0, 3.0)]
    cases = [Case(str(n), (), None, str(n)) for n in range(20)]
    for_three = 7 * 3 * FEWEST_STEPS * 0.01 / (SHARE * TRAINING) / 60
    found = hold_trials(three, choice, None, cases, FakePricer(), 0.99 * for_three).results
    assert [trial.prospect for trial in found] == three[:2]
    found = hold_trials(three, choice, None, cases, FakePricer(), 1.01 * for_three).results
    assert len(found) == 3


def test_where_too_little_is_learnt_the_rules_decide(scripted, choice, caplog):
    """Dice of 1 - 0.1 x spacing: 0.59 at 4.1 mm, after which nothing more is tried."""
    cases = [Case(str(n), (), None, str(n)) for n in range(20)]
    three = [make_prospect(spacing) for spacing in (1.0, 4.1, 2.0)]
    with caplog.at_level("INFO", "pipeline"):
        found = hold_trials(three, choice, None, cases, FakePricer(), minutes=600)
    assert found.results == ()
    assert found.note == (
        "trials were given up, so the rules decide: too little is learnt so soon to choose by"
    )
    assert [spacing for spacing, _ in scripted] == [1.0, 4.1]
    assert "the rules decide" in caplog.text


def test_a_trial_that_fails_loses(scripted, choice, monkeypatch, caplog):
    hold = trials.TrialGround.hold

    def fail(self, prospect, steps):
        if prospect.candidate.spacing_mm[0] == 1.0:
            raise TrainingError("iteration 3", "the loss became nan", "Lower the rate.")
        return hold(self, prospect, steps)

    monkeypatch.setattr("pipeline.planning.trials.TrialGround.hold", fail)
    three = [make_prospect(spacing) for spacing in (1.0, 2.0, 3.0)]
    cases = [Case(str(n), (), None, str(n)) for n in range(20)]
    found = hold_trials(three, choice, None, cases, FakePricer(), minutes=600).results
    assert [trial.prospect for trial in found] == [three[1], three[2], three[0]]
    assert found[-1].steps == 0
    assert "this trial failed: iteration 3: the loss became nan" in caplog.text


def test_one_candidate_is_not_tried(scripted, choice):
    cases = [Case(str(n), (), None, str(n)) for n in range(20)]
    assert hold_trials([make_prospect()], choice, None, cases, FakePricer(), 60) == Trials()
    assert scripted == []


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_what_trials_keep_lies_beside_the_plan_until_they_end(scripted, choice, monkeypatch, error):
    def hold(self, prospect, steps):
        (self.folder / "case").write_text("preprocessed")
        assert self.folder.parent == choice.request.out.parent
        if error:
            raise error
        return TrialResult(prospect, steps, 0.9, 0.0, 0.1)

    monkeypatch.setattr("pipeline.planning.trials.TrialGround.hold", hold)
    cases = [Case(str(n), (), None, str(n)) for n in range(20)]
    two = [make_prospect(1.0), make_prospect(2.0)]
    with pytest.raises(error) if error else nullcontext():
        hold_trials(two, choice, None, cases, FakePricer(), 60)
    assert list(choice.request.out.parent.iterdir()) == []
