from dataclasses import replace

import numpy as np
import pytest

from pipeline.postprocessing import Rule
from pipeline.postprocessing.crf import CrfConfig
from pipeline.selection.candidates import IDENTITY, Candidates, Choice
from pipeline.selection.decision import Verdict
from pipeline.selection.records import Findings, candidate_records, chosen_way, scores_by_way
from pipeline.selection.trial import Trial
from tests.selection.fakes import FakeMeasure, effect, flat

CANDIDATES = Candidates(
    (CrfConfig(), CrfConfig(theta_position_mm=6)),
    (Rule(label="a", keep_largest=1), Rule(label="b", keep_largest=1)),
)
NOTHING = Verdict(IDENTITY, IDENTITY, "")
A = frozenset("a")


class Measure(FakeMeasure):
    def of(self, cases):
        return lambda choices: self(choices)[:, list(cases)]


@pytest.fixture
def found():
    """Rules and settings that gain more and more, of which none was proposed."""
    settings = [effect(12, 0.01, 0.0), effect(12, 0.02, 0.0)]
    rules = [effect(12, -0.01, 0.0), effect(12, 0.0, -0.002)]
    return Findings(Measure("ab", flat(12, 2), settings, rules), CANDIDATES, NOTHING, 12)


def tried(*cases, number=1):
    return Trial((number,), cases, cases[:1], {0: cases[:1], number: cases}, "")


def test_the_best_of_each_kind_is_shown_though_nothing_is_chosen(found):
    scores, ways = scores_by_way(replace(found, trial=tried(*range(12))))
    assert [(row.way, row.label) for row in scores[::3]] == [
        ("none", "a"), ("rules", "a"), ("field", "a"), ("field and rules", "a"),
    ]  # fmt: skip
    dice = {(row.way, row.label): row.dice for row in scores}
    assert dice["rules", "b"] == pytest.approx(0.798)
    assert dice["field", "a"] == pytest.approx(0.82)
    assert ways["rules"] == "b: keep_largest 1 (not chosen)"
    assert ways["field"].startswith("crf 6 mm")
    assert ways["field"].endswith("on a, b (not chosen)")


def test_a_field_on_fewer_cases_stands_beside_the_others_on_these(found):
    scores, _ = scores_by_way(replace(found, trial=tried(3, 4, 5)))
    counts = {row.way: row.num_cases for row in scores}
    assert counts == {
        "none": 12, "rules": 12, "none (3 cases)": 3, "rules (3 cases)": 3,
        "field (3 cases)": 3, "field and rules (3 cases)": 3,
    }  # fmt: skip


def test_what_was_chosen_is_shown_as_that(found):
    rules = Verdict(Choice(rules=(1,)), Choice(rules=(0, 1)), "")
    field = Verdict(Choice(0, A, (1,)), Choice(0, A, (1,)), "", after_NLM=np.zeros((12, 2, 4)))
    both = replace(found, rules=rules, trial=tried(*range(12), number=0), field=field)
    assert both.verdict is field
    _, ways = scores_by_way(both)
    assert ways["rules"] == "b: keep_largest 1 (chosen)"
    assert ways["field"].endswith("on a (chosen)")
    refused = replace(both, field=replace(field, choice=rules.choice))
    assert refused.verdict is rules
    _, ways = scores_by_way(refused)
    assert ways["rules"] == "b: keep_largest 1 (chosen)"
    assert ways["field"].endswith("on a (not chosen)")


def test_each_candidate_has_a_row_on_the_cases_that_it_was_tried_on(found):
    rules = Verdict(Choice(rules=(1,)), Choice(rules=(0, 1)), "")
    rows = candidate_records(replace(found, rules=rules, trial=tried(3, 4, 5)))
    assert [(row.kind, row.num_cases) for row in rows] == [
        ("setting", 1), ("setting", 3), ("rule", 12), ("rule", 12), ("proposed", 12),
        ("accepted", 12),
    ]  # fmt: skip
    assert rows[1].gain == pytest.approx(0.01)
    assert rows[-1].name == "b: keep_largest 1"
    plain = candidate_records(found)
    assert [row.kind for row in plain] == ["rule", "rule"]


def test_ways_have_names():
    names = [chosen_way(Choice(s, A, r)) for s in (None, 0) for r in ((), (1,))]
    assert names == ["none", "rules", "field", "field and rules"]
