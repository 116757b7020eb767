"""Scores without cases, for tests of what is chosen among them."""

import numpy as np

from pipeline.selection.candidates import Space


class FakeMeasure:
    """Scores of settings and rules that add up, where a setting acts on the accepted labels only.

    Args:
        before_NLM: Scores of doing nothing.
        settings_CNLM: What each setting adds.
        rules_RNLM: What each rule adds.
    """

    def __init__(self, structures, before_NLM, settings_CNLM=(), rules_RNLM=()):
        self.structures = structures
        self.before, self.settings, self.rules = before_NLM, settings_CNLM, rules_RNLM

    def __call__(self, choices):
        return np.stack([self._score(choice) for choice in choices])

    def _score(self, choice):
        scores = self.before.copy()
        if choice.setting is not None:
            is_open = [name in choice.labels for name in self.structures]
            scores[:, is_open] += self.settings[choice.setting][:, is_open]
        for number in choice.rules:
            scores += self.rules[number]
        return scores


def flat(num_cases, num_labels, value=0.8, hd95_mm=4.0):
    """Scores without clean-up: Dice and NSD, HD95 in mm, volume error in percent."""
    return np.tile([value, value, hd95_mm, 0.0], (num_cases, num_labels, 1))


def effect(num_cases, *of_labels, noise=0.0, seed=0):
    """Change each label's Dice and NSD by a mean and noise; HD95 stays."""
    rng = np.random.default_rng(seed)
    change = rng.normal(0, noise, (num_cases, len(of_labels), 2))
    change -= change.mean(axis=0)
    return overlap_only(change + np.array(of_labels)[:, None])


def overlap_only(change_NL2):
    """Append what does not change: HD95 and volume error."""
    return np.concatenate([change_NL2, np.zeros_like(change_NL2)], axis=-1)


def space(num_labels, num_settings, groups=()):
    return Space(tuple("abcdefgh"[:num_labels]), tuple(range(num_settings)), tuple(groups))


def folds(num_cases, number=5):
    return np.arange(num_cases) % number
