import numpy as np

from pipeline.selection.choice import IDENTITY, Choice, add_rules, choose_setting
from tests.selection.fakes import FakeMeasure, effect, flat, space

EVERY = np.ones(20, bool)


def test_a_sabotaged_setting_is_refused_and_the_best_one_found():
    settings = [
        effect(20, -0.3, -0.2),
        effect(20, 0.01, 0.01, noise=0.004),
        effect(20, 0.03, 0.02, noise=0.004),
    ]
    measure = FakeMeasure("ab", flat(20, 2), settings)
    assert choose_setting(measure, space(2, 3), EVERY) == Choice(2, frozenset("ab"))
    only_bad = FakeMeasure("ab", flat(20, 2), settings[:1])
    assert choose_setting(only_bad, space(2, 1), EVERY) == IDENTITY


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

    assert choose_setting(measure, space(3, 1), EVERY) == Choice(0, frozenset("a"))


def test_rules_are_chosen_by_label_on_top_of_the_setting():
    rules = [
        effect(20, 0.01, 0.0, noise=0.001) * [[[1.0], [0.0]]],
        effect(20, 0.02, 0.0, noise=0.001) * [[[1.0], [0.0]]],
        effect(20, 0.0, -0.01),
        effect(20, 0.0, 0.005),
    ]
    measure = FakeMeasure("ab", flat(20, 2), [effect(20, 0.01, 0.01)], rules)
    base = Choice(0, frozenset("ab"))
    choice = add_rules(base, measure, space(2, 1, ["a", "a", "b", "b filled"]), EVERY)
    assert choice == Choice(0, frozenset("ab"), (1, 3))


def test_rules_that_harm_only_together_are_not_taken_together():
    before = flat(20, 1)

    def measure(choices):
        gains = {(): 0.0, (0,): 0.01, (1,): 0.02, (0, 1): -0.1}
        return np.stack([before + gains[choice.rules] for choice in choices])

    choice = add_rules(IDENTITY, measure, space(1, 0, ["one", "other"]), EVERY)
    assert choice == Choice(rules=(1,))
