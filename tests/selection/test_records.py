import numpy as np
import pytest

from pipeline.evaluation import EvaluationConfig, LabelScores, summarise
from pipeline.selection.candidates import IDENTITY, Choice
from pipeline.selection.decision import Verdict
from pipeline.selection.records import candidate_record, score_records, structure_records

BOTH = frozenset("ab")
NAN = float("nan")


def measure(choices):
    """The setting adds 0.02 to `a` and takes 0.01 from `b`; the rule adds 0.04 to `a`."""
    found = np.full((len(choices), 4, 2, 4), 0.5)
    for scores, choice in zip(found, choices, strict=True):
        if choice.setting is not None:
            scores[:, 0, :2] += 0.02 * ("a" in choice.labels)
            scores[:, 1, :2] -= 0.01 * ("b" in choice.labels)
        scores[:, 0, :2] += 0.04 * len(choice.rules)
        scores[:, :, 2] /= 1 + len(choice.rules)
    return found


def test_a_candidate_is_told_with_all_that_it_gains_and_what_fares_worst():
    pair = (IDENTITY, Choice(0, BOTH))
    setting = candidate_record("field", "setting", measure, pair, ("a", "b"))
    assert (setting.name, setting.kind, setting.num_cases) == ("field", "setting", 4)
    assert setting.gain == pytest.approx(0.005)
    assert setting.nsd_gain == pytest.approx(0.005)
    assert setting.hd95_gain == 0
    assert (setting.worst_label, setting.worst_change) == ("b", pytest.approx(-0.01))
    assert (setting.num_better, setting.num_worse) == (4, 0)
    assert not setting.passes
    rule = candidate_record("rule", "rule", measure, (IDENTITY, Choice(rules=(0,))), ("a", "b"))
    assert rule.gain == pytest.approx(0.02)
    assert rule.hd95_gain == rule.hd95_low == rule.hd95_high == pytest.approx(0.5)
    assert rule.passes


def test_scores_are_the_means_that_evaluation_gives():
    """Three cases, two labels, one of them absent from one and found for nothing in another."""
    scores_NLM = np.array(
        [
            [[0.9, 0.8, 2.0, 10.0], [0.5, 0.4, 6.0, -20.0]],
            [[0.8, 0.6, 3.0, -5.0], [0.0, 0.0, 90.0, NAN]],
            [[0.7, 0.5, 4.0, 0.0], [NAN, NAN, NAN, NAN]],
        ]
    )
    rows = [
        LabelScores(f"c{n}", name, dice, 0, hd95, 0, nsd, 0, 0, 0, volume)
        for n, of_case in enumerate(scores_NLM.tolist())
        for name, (dice, nsd, hd95, volume) in zip("ab", of_case, strict=True)
    ]
    expected = {(s.label, s.metric): s for s in summarise(rows, EvaluationConfig())}
    records = score_records("none", scores_NLM, ("a", "b"))
    assert [record.label for record in records] == ["a", "b", "mean"]
    for record in records:
        for metric in ("dice", "nsd", "hd95_mm", "volume_error_percent"):
            found = expected[record.label, metric].mean
            assert getattr(record, metric) == pytest.approx(found), (record.label, metric)
        assert record.num_cases == expected[record.label, "dice"].count


def test_scores_that_are_nowhere_defined_are_none():
    (record, _) = score_records("none", np.full((3, 1, 4), NAN), ("a",))
    assert (record.dice, record.hd95_mm, record.num_cases) == (None, None, 0)


def test_structures_without_any_score_are_left_out():
    nothing = [NAN] * 3
    before = np.array([[[0.4, 0.6, 6.0], nothing], [[0.0, 0.0, 30.0], nothing]])
    after = np.array([[[0.6, 0.6, 4.0], nothing], [nothing, nothing]])
    choice = Choice(0, frozenset("a"))
    (record,) = structure_records(before, Verdict(choice, choice, "", None, (), after), ("a", "b"))
    assert record.may_change
    assert (record.name, record.num_cases) == ("a", 2)
    # The false finding of the second case is gone, which counts as full agreement.
    assert (record.dice_before, record.dice_after) == (pytest.approx(0.2), pytest.approx(0.8))
    assert (record.nsd_before, record.nsd_after) == (pytest.approx(0.3), pytest.approx(0.8))
    assert (record.hd95_before, record.hd95_after) == (18, 2)
