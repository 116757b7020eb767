import numpy as np
import pytest

from pipeline.postprocessing import Rule
from pipeline.postprocessing.crf import CrfConfig
from pipeline.selection.candidates import Candidates
from pipeline.selection.choice import IDENTITY, Choice
from pipeline.selection.decision import Verdict
from pipeline.selection.records import candidate_records, structure_records

CANDIDATES = Candidates((CrfConfig(),), (Rule(label="a", keep_largest=1),))
BOTH = frozenset("ab")
NAN = float("nan")


def measure(choices):
    """The setting adds 0.02 to `a` and takes 0.01 from `b`; the rule adds 0.04 to `a`."""
    found = np.full((len(choices), 4, 2, 2), 0.5)
    for scores, choice in zip(found, choices, strict=True):
        if choice.setting is not None:
            scores[:, 0] += 0.02 * ("a" in choice.labels)
            scores[:, 1] -= 0.01 * ("b" in choice.labels)
        scores[:, 0] += 0.04 * len(choice.rules)
    return found


def test_candidates_are_compared_with_nothing_and_rules_with_the_proposed_setting():
    proposed = Choice(0, frozenset("a"), (0,))
    verdict = Verdict(proposed, proposed, "")
    setting, rule, together = candidate_records(CANDIDATES, verdict, measure, ("a", "b"))
    assert (setting.kind, rule.kind, together.kind) == ("setting", "rule", "proposed")
    assert setting.gain == pytest.approx(0.005)
    assert (setting.worst_label, setting.worst_change) == ("b", pytest.approx(-0.01))
    assert (setting.num_better, setting.num_worse) == (4, 0)
    assert not setting.passes
    assert rule.gain == pytest.approx(0.02)
    assert together.gain == pytest.approx(0.03)
    assert rule.passes
    assert together.passes


def test_what_is_accepted_of_it_has_its_own_row():
    verdict = Verdict(Choice(rules=(0,)), Choice(0, frozenset("a"), (0,)), "")
    *_, together, accepted = candidate_records(CANDIDATES, verdict, measure, ("a", "b"))
    assert (together.kind, accepted.kind) == ("proposed", "accepted")
    assert accepted.name == "a: keep_largest 1"
    assert accepted.gain == pytest.approx(0.02)


def test_nothing_proposed_has_no_row_of_its_own():
    records = candidate_records(CANDIDATES, Verdict(IDENTITY, IDENTITY, ""), measure, ("a", "b"))
    assert [record.kind for record in records] == ["setting", "rule"]


def test_structures_without_any_score_are_left_out():
    before = np.array([[[0.4, 0.6], [NAN, NAN]], [[0.0, 0.0], [NAN, NAN]]])
    after = np.array([[[0.6, 0.6], [NAN, NAN]], [[NAN, NAN], [NAN, NAN]]])
    choice = Choice(0, frozenset("a"))
    (record,) = structure_records(before, Verdict(choice, choice, "", None, (), after), ("a", "b"))
    assert record.may_change
    assert (record.name, record.num_cases) == ("a", 2)
    # The false finding of the second case is gone, which counts as full agreement.
    assert (record.dice_before, record.dice_after) == (pytest.approx(0.2), pytest.approx(0.8))
    assert (record.nsd_before, record.nsd_after) == (pytest.approx(0.3), pytest.approx(0.8))
