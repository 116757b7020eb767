"""Trials of settings whose effects and costs are known, with a clock that only they move."""

from math import inf

import numpy as np
import pytest

from pipeline.selection.candidates import IDENTITY, SMOOTHNESS_ONLY, Choice, make_candidates
from pipeline.selection.clock import OutOfTimeError
from pipeline.selection.trial import FieldTrial, spread
from tests.selection.fakes import FakeMeasure, flat, folds

CASE_S, SETTING_S = 2.0, 1.0


class FakeClock:
    def __init__(self, seconds=inf):
        self.left_s = seconds


class FakeFields:
    """Each case takes 2 s and each setting 1 s, which nobody knows before they were done once."""

    def __init__(self, clock):
        self.clock, self.calls, self.input, self.case_s = clock, [], None, 0.0
        self.slow, self.known = {}, {}

    def expected_s(self, index, numbers):
        todo = [number for number in numbers if (index, number) not in self.calls]
        if not todo:
            return 0.0
        of_settings = sum(self.known.get(number, 0.0) for number in todo)
        return self.case_s * (self.input != index) + of_settings

    def try_setting(self, index, number):
        if (index, number) in self.calls:
            return
        takes_s = self.slow.get(number, SETTING_S)
        self.clock.left_s -= CASE_S * (self.input != index) + takes_s
        self.input, self.case_s = index, CASE_S
        self.known[number] = takes_s
        self.calls.append((index, number))


class Measure(FakeMeasure):
    def of(self, cases):
        return lambda choices: self(choices)[:, list(cases)]


@pytest.fixture
def make_trial(description):
    """Make a trial of settings that gain so much Dice, on 20 cases."""
    candidates = make_candidates(description)

    def make(gains, seconds=inf):
        effects = np.zeros((19, 20, 1, 4))
        for number, gain in gains.items():
            effects[number, ..., :2] = gain
        clock = FakeClock(seconds)
        order = spread([f"c{n}" for n in range(20)], folds(20))
        measure = Measure("a", flat(20, 1), effects)
        return FieldTrial(FakeFields(clock), measure, candidates, IDENTITY, order, clock)

    return make


def test_cases_are_taken_from_all_folds_in_turn_whatever_their_order():
    names, fold_N = [f"c{n}" for n in range(20)], folds(20)
    order = spread(names, fold_N)
    assert sorted(order) == list(range(20))
    for start in range(0, 20, 5):
        assert set(fold_N[order[start : start + 5]]) == set(range(5))
    turned = spread(names[::-1], fold_N[::-1])
    assert [names[::-1][index] for index in turned] == [names[index] for index in order]


def test_where_no_far_apart_setting_gains_that_is_the_end_of_it(make_trial):
    trial = make_trial({})
    found = trial.run()
    assert found.settings == ()
    assert "none of 4 far-apart settings gained enough on 5 cases" in found.why
    assert len(trial.fields.calls) == 20
    assert {len(cases) for cases in found.tried.values()} == {5}


def test_the_best_is_refined_and_goes_on_to_all_cases(make_trial):
    """A neighbour of the best far-apart setting is better still."""
    trial = make_trial({})
    best = trial.candidates.coarse[2]
    neighbours = trial.candidates.around(best)
    trial = make_trial({best: 0.01, neighbours[1]: 0.03})
    found = trial.run()
    assert found.settings == (neighbours[1], best)
    assert found.cases == tuple(trial.order)
    assert found.picked_on == tuple(trial.order[:5])
    assert found.why == "all cases were done"
    assert set(found.tried) == {*trial.candidates.coarse, *neighbours}
    assert [len(found.tried[n]) for n in (neighbours[0], neighbours[1])] == [5, 20]


def test_what_cannot_be_finished_in_time_is_not_begun(make_trial):
    """Enough for the far-apart settings and for one setting on twelve cases, not on all twenty."""
    smooth = make_trial({}).candidates.settings.index(SMOOTHNESS_ONLY)
    trial = make_trial({smooth: 0.01}, seconds=50)
    found = trial.run()
    assert found.settings == (smooth,)
    assert 10 <= len(found.cases) < 20
    assert found.why == "the time was up"
    assert 0 <= trial.clock.left_s < CASE_S + SETTING_S


def test_more_settings_never_take_the_time_of_one_on_enough_cases(make_trial):
    """In 33 s one setting is tried on ten cases, and next to nothing else."""
    smooth = make_trial({}).candidates.coarse[0]
    trial = make_trial({smooth: 0.01}, seconds=34)
    found = trial.run()
    assert found.settings == (smooth,)
    assert len(found.cases) >= 10


def test_where_the_time_is_too_short_for_enough_cases_one_or_two_are_tried(make_trial):
    trial = make_trial({}, seconds=20)
    found = trial.run()
    assert found.settings == ()
    assert 1 <= len(found.cases) <= 2
    assert found.why.startswith("the time was too short for 10 cases, about")
    none = make_trial({}, seconds=0).run()
    assert (none.cases, none.why) == ((), "no time was left for it")


def test_what_was_tried_before_takes_no_time(make_trial):
    trial = make_trial({0: 0.01, 17: 0.01}, seconds=inf)
    whole = trial.run()
    again = make_trial({0: 0.01, 17: 0.01}, seconds=1)
    again.fields.calls = list(trial.fields.calls)
    found = again.run()
    assert (found.settings, found.cases) == (whole.settings, whole.cases)
    assert len(again.fields.calls) == len(trial.fields.calls)


def test_settings_are_judged_before_the_rules_that_were_chosen(make_trial):
    trial = make_trial({})
    seen = []
    measure = trial.measure
    trial.base = Choice(rules=(0,))
    measure.rules = np.zeros((1, 20, 1, 4))
    call = type(measure).__call__
    measure.of = lambda cases: (
        lambda choices: seen.extend(choices) or call(measure, choices)[:, list(cases)]
    )
    trial.run()
    assert {choice.rules for choice in seen} == {(0,)}


def test_a_case_that_turns_out_to_take_too_long_ends_it(make_trial, monkeypatch):
    trial = make_trial({})

    def late(*_):
        raise OutOfTimeError(500)

    monkeypatch.setattr(trial.fields, "try_setting", late)
    found = trial.run()
    assert found.cases == found.settings == ()
    assert found.why == "no time was left for it: about 500 s more are needed for a case"


def test_a_setting_that_is_too_slow_for_enough_cases_is_not_tried_again(make_trial):
    """It gains most, on the first case; the next best goes on in its place."""
    quick, *_, slow = make_trial({}).candidates.coarse
    trial = make_trial({quick: 0.01, slow: 0.05}, seconds=120)
    trial.fields.slow = {slow: 20.0}
    found = trial.run()
    assert found.settings == (quick,)
    assert len(found.tried[slow]) == 1
    assert len(found.cases) == 20
    alone = make_trial({slow: 0.05}, seconds=120)
    alone.fields.slow = {slow: 20.0}
    assert alone.run().why == "no setting that gained is quick enough for 10 cases in this time"
