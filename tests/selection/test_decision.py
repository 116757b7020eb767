import numpy as np
import pytest

from pipeline.selection.choice import IDENTITY, Choice
from pipeline.selection.decision import MIN_CASES, decide
from tests.selection.fakes import FakeMeasure, effect, flat, folds, space


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
    assert "labels stay as they are" in verdict.reason


def test_nine_cases_are_too_few_and_ten_are_not():
    for number, expected in ((MIN_CASES - 1, IDENTITY), (MIN_CASES, Choice(0, frozenset("a")))):
        measure = FakeMeasure("a", flat(number, 1), [effect(number, 0.1)])
        assert decide(measure, space(1, 1), folds(number)).choice == expected

    def never(_):
        raise AssertionError("nothing is scored")

    assert "off: 9 validation cases" in decide(never, space(1, 1), folds(9)).reason
    assert "of one subject" in decide(never, space(1, 1), folds(20, 1)).reason


def test_what_only_the_cases_it_was_chosen_on_bear_out_is_refused():
    """Each of five settings helps four folds a lot and harms its own fold more."""
    fold_N = folds(20)
    settings = [
        np.where(fold_N == number, -0.25, 0.2 + 0.01 * number)[:, None, None] * np.ones((1, 1, 2))
        for number in range(5)
    ]
    measure = FakeMeasure("a", flat(20, 1), settings)
    verdict = decide(measure, space(1, 5), fold_N)
    assert verdict.proposed == Choice(4, frozenset("a"))
    assert verdict.choice == IDENTITY
    assert [choice.setting for choice in verdict.of_folds] == [0, 1, 2, 3, 4]
    assert verdict.nested.gain == pytest.approx(-0.25)
    assert verdict.reason.startswith("refused")
    assert "a falls in Dice or NSD" in verdict.reason


def test_a_rule_that_does_not_hold_does_not_take_the_rest_with_it():
    """The field helps everywhere; each rule of `b` helps four folds and harms its own more."""
    fold_N = folds(20)
    rules = [
        np.where(fold_N == n, -0.25, 0.2 + 0.01 * n)[:, None, None] * np.ones((1, 2, 2))
        for n in range(5)
    ]
    for rule in rules:
        rule[:, 0] = 0
    good = effect(20, 0.01, 0.0)
    measure = FakeMeasure("ab", flat(20, 2), [effect(20, 0.03, 0.02)], [*rules, good])
    verdict = decide(measure, space(2, 1, ["b removes"] * 5 + ["a removes"]), fold_N)
    assert verdict.proposed == Choice(0, frozenset("ab"), (4, 5))
    assert verdict.choice == Choice(0, frozenset("ab"), (5,))
    assert verdict.of_folds == (verdict.choice,) * 5
    assert verdict.nested.gain == pytest.approx(0.03)
    assert verdict.reason.endswith("left out, as it did not hold there: b removes")


def test_rules_may_hold_without_the_field():
    fold_N = folds(20)
    settings = [
        np.where(fold_N == n, -0.25, 0.2 + 0.01 * n)[:, None, None] * np.ones((1, 1, 2))
        for n in range(5)
    ]
    measure = FakeMeasure("a", flat(20, 1), settings, [effect(20, 0.01)])
    verdict = decide(measure, space(1, 5, ["a removes"]), fold_N)
    assert verdict.proposed == Choice(4, frozenset("a"), (0,))
    assert verdict.choice == Choice(rules=(0,))
    assert "the conditional random field" in verdict.reason


def test_the_nested_scores_are_those_of_each_folds_own_choice():
    measure = FakeMeasure("ab", flat(15, 2), [effect(15, 0.04, 0.02, noise=0.01)])
    verdict = decide(measure, space(2, 1), folds(15, 3))
    assert verdict.after_NLM.shape == (15, 2, 2)
    np.testing.assert_allclose(verdict.after_NLM, measure([verdict.proposed])[0])
    assert verdict.nested.gain == pytest.approx(0.03)


def test_selection_among_candidates_without_effect_hardly_ever_accepts():
    """Twenty settings and as many rules of no mean effect; the nominal level is 2.5 %.

    Choosing without nested folds would accept nearly always: it is shown not to be vacuous.
    """
    accepted = proposed = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        settings, rules = (rng.normal(0, 0.02, (20, 30, 2, 2)) for _ in range(2))
        for number, rule in enumerate(rules):
            rule[:, number % 2] = 0
        measure = FakeMeasure("ab", flat(30, 2), settings, rules)
        verdict = decide(measure, space(2, 20, [f"{n % 2}" for n in range(20)]), folds(30))
        proposed += verdict.proposed != IDENTITY
        accepted += verdict.choice != IDENTITY
    assert proposed > 10
    assert accepted <= 1


def test_a_real_gain_among_candidates_without_effect_is_found():
    found = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        settings = rng.normal(0, 0.02, (20, 30, 2, 2))
        settings[7] += 0.03
        verdict = decide(FakeMeasure("ab", flat(30, 2), settings), space(2, 20), folds(30))
        found += verdict.choice == Choice(7, frozenset("ab"))
    assert found >= 18


def test_a_label_that_no_fold_chose_stays_as_it_is():
    """On all twenty cases `b` just passes; on the sixteen of each fold's choice it never does."""
    swing = np.tile([0.0315, -0.0115, 0.0315, -0.0115], 5)
    changes = np.stack([np.full(20, 0.05), swing], axis=1)[:, :, None] * np.ones((1, 1, 2))
    fold_N = np.repeat(np.arange(5), 4)
    verdict = decide(FakeMeasure("ab", flat(20, 2), [changes]), space(2, 1), fold_N)
    assert verdict.proposed.labels == frozenset("ab")
    assert [choice.labels for choice in verdict.of_folds] == [frozenset("a")] * 5
    assert verdict.choice == Choice(0, frozenset("a"))
