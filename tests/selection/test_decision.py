import numpy as np
import pytest

from pipeline.selection.candidates import IDENTITY, Choice
from pipeline.selection.decision import (
    add_harmless,
    decide_anatomy,
    decide_field,
    decide_rules,
    why_few,
)
from tests.selection.fakes import FakeMeasure, effect, flat, folds, overlap_only, space


def decide(measure, space, fold_N, fresh_N=None):
    """Choose rules, then a field before them, on the same cases."""
    rules = decide_rules(measure, space, fold_N)
    fresh_N = np.zeros(len(fold_N), bool) if fresh_N is None else fresh_N
    return decide_field(measure, space, fold_N, rules, fold_N, fresh_N)


def swing(change_N, num_labels=1):
    """Change Dice and NSD of all labels alike, by so much in each case."""
    return overlap_only(change_N[:, None, None] * np.ones((1, num_labels, 2)))


def test_a_setting_that_helps_one_label_and_hurts_another_is_gated_to_the_one():
    measure = FakeMeasure("ab", flat(20, 2), [effect(20, 0.04, -0.02, noise=0.005)])
    verdict = decide(measure, space(2, 1), folds(20))
    assert verdict.choice == Choice(0, frozenset("a"))
    assert verdict.of_folds == (verdict.choice,) * 5
    assert verdict.reason.startswith("accepted")


def test_what_harms_everything_leaves_labels_as_they_are():
    verdict = decide(
        FakeMeasure("ab", flat(20, 2), [effect(20, -0.3, -0.2)]), space(2, 1), folds(20)
    )
    assert verdict.choice == verdict.proposed == IDENTITY
    assert "no setting gains enough" in verdict.reason


def test_nine_cases_are_too_few_and_ten_are_not():
    assert why_few(folds(9)) == "9 validation cases, and fewer than 10 say too little"
    assert why_few(folds(10)) == ""
    assert "of one subject" in why_few(folds(20, 1))


def test_what_only_the_cases_it_was_chosen_on_bear_out_is_refused():
    """Each of five settings helps four folds a lot and harms its own fold more."""
    fold_N = folds(20)
    settings = [
        swing(np.where(fold_N == number, -0.25, 0.2 + 0.01 * number)) for number in range(5)
    ]
    measure = FakeMeasure("a", flat(20, 1), settings)
    verdict = decide(measure, space(1, 5), fold_N)
    assert verdict.proposed == Choice(4, frozenset("a"))
    assert verdict.choice == IDENTITY
    assert [choice.setting for choice in verdict.of_folds] == [0, 1, 2, 3, 4]
    assert verdict.nested.gain_M[0] == pytest.approx(-0.25)
    assert verdict.reason.startswith("refused")
    assert "a falls in Dice, NSD or HD95" in verdict.reason


def test_a_rule_that_does_not_hold_does_not_take_the_rest_with_it():
    """A rule helps everywhere; each rule of `b` helps four folds and harms its own more."""
    fold_N = folds(20)
    rules = [swing(np.where(fold_N == n, -0.25, 0.2 + 0.01 * n), num_labels=2) for n in range(5)]
    for rule in rules:
        rule[:, 0] = 0
    good = effect(20, 0.01, 0.0)
    measure = FakeMeasure("ab", flat(20, 2), [effect(20, 0.03, 0.02)], [*rules, good])
    space_of_both = space(2, 1, ["b removes"] * 5 + ["a removes"])
    verdict = decide_rules(measure, space_of_both, fold_N)
    assert verdict.proposed == Choice(rules=(4, 5))
    assert verdict.choice == Choice(rules=(5,))
    assert verdict.of_folds == (verdict.choice,) * 5
    assert verdict.nested.gain_M[0] == pytest.approx(0.005)
    assert verdict.reason.endswith("left out, as it did not hold there: b removes")
    field = decide(measure, space_of_both, fold_N)
    assert field.choice == Choice(0, frozenset("ab"), (5,))
    assert field.nested.gain_M[0] == pytest.approx(0.03)


def test_rules_stay_where_the_field_does_not_hold():
    fold_N = folds(20)
    settings = [swing(np.where(fold_N == n, -0.25, 0.2 + 0.01 * n)) for n in range(5)]
    measure = FakeMeasure("a", flat(20, 1), settings, [effect(20, 0.01)])
    verdict = decide(measure, space(1, 5, ["a removes"]), fold_N)
    assert verdict.proposed == Choice(4, frozenset("a"), (0,))
    assert verdict.choice == Choice(rules=(0,))


def test_a_field_that_gains_only_where_it_was_picked_is_refused():
    """It helps the five cases that it was picked on so much that all cases gain in the mean."""
    settings = [swing(np.where(np.arange(20) < 5, 0.5, -0.0001))]
    fresh_N = np.arange(20) >= 5
    measure = FakeMeasure("a", flat(20, 1), settings)
    assert decide(measure, space(1, 1), folds(20)).choice == Choice(0, frozenset("a"))
    verdict = decide(measure, space(1, 1), folds(20), fresh_N)
    assert verdict.choice == IDENTITY
    assert "refused: on the 15 cases that no setting was picked on" in verdict.reason


def test_a_field_is_judged_on_the_cases_that_it_was_tried_on():
    """Twelve of the twenty, of three of five folds, each after the rules of its own fold."""
    fold_N = folds(20)
    measure = FakeMeasure("a", flat(20, 1), [effect(20, 0.03)], [effect(20, 0.01)])
    rules = decide_rules(measure, space(1, 1, ["a"]), fold_N)
    tried = np.flatnonzero(fold_N > 1)
    verdict = decide_field(
        lambda choices: measure(choices)[:, tried],
        space(1, 1, ["a"]),
        fold_N[tried],
        rules,
        fold_N,
        np.zeros(len(tried), bool),
    )
    assert verdict.choice == Choice(0, frozenset("a"), (0,))
    assert verdict.of_folds == (verdict.choice,) * 3
    assert verdict.after_NLM.shape == (12, 1, 4)


def test_rules_by_anatomy_are_taken_while_they_cost_nothing():
    rules = [effect(3, 0.0), effect(3, -1e-6), effect(3, 0.1)]
    verdict = decide_anatomy(FakeMeasure("a", flat(3, 1), [], rules), 3)
    assert verdict.proposed == Choice(rules=(0, 1, 2))
    assert verdict.choice == Choice(rules=(0, 2))


def test_what_anatomy_allows_is_added_to_what_gains_if_it_costs_nothing():
    """One rule gains, one too little to matter, one costs a little; a field comes on top."""
    rules = [effect(12, 0.04), effect(12, 1e-4), effect(12, -1e-6)]
    measure, fold_N = FakeMeasure("a", flat(12, 1), [effect(12, 0.1)], rules), folds(12, 3)
    by_gain = decide_rules(measure, space(1, 1, ["0", "1", "2"]), fold_N)
    assert by_gain.choice == Choice(rules=(0,))
    verdict = add_harmless(by_gain, measure, [1, 2], fold_N)
    assert verdict.choice == Choice(rules=(0, 1))
    assert verdict.of_folds == (verdict.choice,) * 3
    assert verdict.nested.gain_M[0] == pytest.approx(0.0401)
    np.testing.assert_allclose(verdict.after_NLM, measure([verdict.choice])[0])
    nowhere = np.zeros(12, bool)
    with_field = decide_field(
        measure, space(1, 1, ["0", "1", "2"]), fold_N, verdict, fold_N, nowhere
    )
    assert with_field.choice == Choice(0, frozenset("a"), (0, 1))


def test_what_anatomy_allows_is_taken_where_nothing_gains():
    measure, fold_N = FakeMeasure("a", flat(12, 1), [], [effect(12, 1e-4)]), folds(12, 3)
    by_gain = decide_rules(measure, space(1, 0, ["0"]), fold_N)
    assert by_gain.choice == IDENTITY
    verdict = add_harmless(by_gain, measure, [0], fold_N)
    assert verdict.choice == Choice(rules=(0,))
    assert verdict.of_folds == (verdict.choice,) * 3
    assert verdict.nested.gain_M[0] == pytest.approx(1e-4)
    assert add_harmless(by_gain, measure, [], fold_N) is by_gain


def test_the_nested_scores_are_those_of_each_folds_own_choice():
    measure = FakeMeasure("ab", flat(15, 2), [effect(15, 0.04, 0.02, noise=0.01)])
    verdict = decide(measure, space(2, 1), folds(15, 3))
    assert verdict.after_NLM.shape == (15, 2, 4)
    np.testing.assert_allclose(verdict.after_NLM, measure([verdict.proposed])[0])
    assert verdict.nested.gain_M[0] == pytest.approx(0.03)


def test_selection_among_candidates_without_effect_hardly_ever_accepts():
    """Twenty settings and as many rules of no mean effect; the nominal level of each is 2.5 %.

    Choosing without nested folds would accept nearly always: it is shown not to be vacuous.
    """
    accepted = proposed = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        settings, rules = (overlap_only(rng.normal(0, 0.02, (20, 30, 2, 2))) for _ in range(2))
        for number, rule in enumerate(rules):
            rule[:, number % 2] = 0
        measure = FakeMeasure("ab", flat(30, 2), settings, rules)
        verdict = decide(measure, space(2, 20, [f"{n % 2}" for n in range(20)]), folds(30))
        proposed += verdict.proposed != IDENTITY
        accepted += verdict.choice != IDENTITY
    assert proposed > 10
    assert accepted <= 2


def test_a_real_gain_among_candidates_without_effect_is_found():
    found = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        settings = overlap_only(rng.normal(0, 0.02, (20, 30, 2, 2)))
        settings[7, ..., :2] += 0.03
        verdict = decide(FakeMeasure("ab", flat(30, 2), settings), space(2, 20), folds(30))
        found += verdict.choice == Choice(7, frozenset("ab"))
    assert found >= 18


def test_a_label_that_no_fold_chose_stays_as_it_is():
    """On all twenty cases `b` just passes; on the sixteen of each fold's choice it never does."""
    unsteady = np.tile([0.0315, -0.0115, 0.0315, -0.0115], 5)
    changes = np.stack([np.full(20, 0.05), unsteady], axis=1)[:, :, None] * np.ones((1, 1, 2))
    changes = overlap_only(changes)
    fold_N = np.repeat(np.arange(5), 4)
    verdict = decide(FakeMeasure("ab", flat(20, 2), [changes]), space(2, 1), fold_N)
    assert verdict.proposed.labels == frozenset("ab")
    assert [choice.labels for choice in verdict.of_folds] == [frozenset("a")] * 5
    assert verdict.choice == Choice(0, frozenset("a"))
