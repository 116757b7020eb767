import numpy as np

from pipeline.selection.candidates import IDENTITY, Choice, choose_rules, choose_setting
from tests.selection.fakes import FakeMeasure, effect, flat, space

EVERY = np.ones(20, bool)


def test_a_sabotaged_setting_is_refused_and_the_best_one_found():
    settings = [
        effect(20, -0.3, -0.2),
        effect(20, 0.01, 0.01, noise=0.004),
        effect(20, 0.03, 0.02, noise=0.004),
    ]
    measure = FakeMeasure("ab", flat(20, 2), settings)
    assert choose_setting(IDENTITY, measure, space(2, 3), EVERY) == Choice(2, frozenset("ab"))
    only_bad = FakeMeasure("ab", flat(20, 2), settings[:1])
    assert choose_setting(IDENTITY, only_bad, space(2, 1), EVERY) == IDENTITY


def test_labels_are_taken_away_until_all_left_are_helped():
    """Label b gains only what the setting takes from c; without c, it falls."""
    before = flat(20, 3)

    def measure(choices):
        found = np.stack([before] * len(choices))
        for scores, choice in zip(found, choices, strict=True):
            if "a" in choice.labels:
                scores[:, 0] += 0.02
            if "b" in choice.labels:
                scores[:, 1] += 0.01 if "c" in choice.labels else -0.01
            if {"b", "c"} <= choice.labels:
                scores[:, 2] -= 0.05
        return found

    assert choose_setting(IDENTITY, measure, space(3, 1), EVERY) == Choice(0, frozenset("a"))


def test_a_setting_is_chosen_by_what_it_adds_to_the_rules():
    """It helps by itself, but with the rule that is chosen already it does harm."""
    before = flat(20, 1)

    def measure(choices):
        gains = {(None, ()): 0.0, (0, ()): 0.05, (None, (0,)): 0.04, (0, (0,)): 0.03}
        changes = [[gains[c.setting, c.rules]] * 2 + [0, 0] for c in choices]
        return before + np.array(changes)[:, None, None]

    rule = Choice(rules=(0,))
    assert choose_setting(IDENTITY, measure, space(1, 1), EVERY) == Choice(0, frozenset("a"))
    assert choose_setting(rule, measure, space(1, 1), EVERY) == rule


def test_of_each_group_the_best_rule_is_chosen():
    rules = [
        effect(20, 0.01, 0.0, noise=0.001) * [[[1.0], [0.0]]],
        effect(20, 0.02, 0.0, noise=0.001) * [[[1.0], [0.0]]],
        effect(20, 0.0, -0.01),
        effect(20, 0.0, 0.005),
    ]
    measure = FakeMeasure("ab", flat(20, 2), [], rules)
    choice = choose_rules(measure, space(2, 0, ["a", "a", "b", "b filled"]), EVERY)
    assert choice == Choice(rules=(1, 3))


def test_a_rule_that_brings_stray_pieces_in_is_chosen_by_hd95_alone():
    nearer = np.zeros((20, 1, 4))
    nearer[:5, :, 2] = -3.0  # Of 4 mm, in a quarter of the cases: -18.75 % of the mean.
    measure = FakeMeasure("a", flat(20, 1), [], [nearer])
    assert choose_rules(measure, space(1, 0, ["a"]), EVERY) == Choice(rules=(0,))


def test_rules_that_harm_only_together_are_not_taken_together():
    before = flat(20, 1)

    def measure(choices):
        gains = {(): 0.0, (0,): 0.01, (1,): 0.02, (0, 1): -0.1}
        changes = [[gains[c.rules]] * 2 + [0, 0] for c in choices]
        return before + np.array(changes)[:, None, None]

    choice = choose_rules(measure, space(1, 0, ["one", "other"]), EVERY)
    assert choice == Choice(rules=(1,))


def test_what_is_worth_it_for_one_label_must_be_so_for_the_mean_of_all():
    """0.004 for one of eight labels is 0.0005 in the mean."""
    rule = effect(20, 0.004, *[0.0] * 7)
    measure = FakeMeasure("abcdefgh", flat(20, 8), [], [rule])
    assert choose_rules(measure, space(8, 0, ["a"]), EVERY) == IDENTITY
    both = FakeMeasure("abcdefgh", flat(20, 8), [], [rule, effect(20, 0.0, 0.008, *[0.0] * 6)])
    assert choose_rules(both, space(8, 0, ["a", "b"]), EVERY) == Choice(rules=(0, 1))
