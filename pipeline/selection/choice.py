"""The best candidate on some cases: a setting of the random field, the labels it may change, rules.

Axes: C = candidates, N = cases, L = structures (labels or regions), M = Dice and NSD.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipeline.selection.statistics import Comparison, Scores, compare

Cases = npt.NDArray[np.bool_]
"""`(N,)`: which cases a candidate is judged on."""

SHORTLIST = 3
"""Settings that are tried with each set of labels that they help; the others are ranked before."""


@dataclass(frozen=True)
class Choice:
    """A candidate: what is done to the labels. The default does nothing.

    Attributes:
        setting: Number of the setting of the conditional random field; None for none.
        labels: That it may change.
        rules: Numbers of the rules that follow, ascending, in the order they are applied.
    """

    setting: int | None = None
    labels: frozenset[str] = frozenset()
    rules: tuple[int, ...] = ()


IDENTITY = Choice()

Measure = Callable[[Sequence[Choice]], Scores]
"""Returns the scores `(C, N, L, M)` of choices; undefined ones are NaN."""


@dataclass(frozen=True)
class Space:
    """What can be chosen from.

    Attributes:
        structures: Names along the axis L.
        num_settings: Of the conditional random field; 0 where it does not apply.
        rule_groups: Group of each rule; at most one of a group is chosen.
    """

    structures: tuple[str, ...]
    num_settings: int
    rule_groups: tuple[str, ...]


def choose_setting(measure: Measure, space: Space, cases: Cases) -> Choice:
    """Return the best setting that is accepted on some cases, or `IDENTITY`.

    A setting changes only labels that it helps, each by itself as a candidate would have to. That
    is stricter than that none falls: a label that is neither helped nor harmed would fall on every
    other set of cases by chance.
    """
    everywhere = frozenset(space.structures)
    settings = [Choice(number, everywhere) for number in range(space.num_settings)]
    before_NLM, *all_after = measure([IDENTITY, *settings])[:, cases]
    promising = []
    for choice, after_NLM in zip(settings, all_after, strict=True):
        compared = compare(before_NLM, after_NLM)
        if compared.helped:
            hope = float(compared.dice_L[list(compared.helped)].sum())
            promising.append((hope, _gated(choice, compared, space)))
    promising.sort(key=lambda entry: -entry[0])
    best, best_gain = IDENTITY, 0.0
    for _, choice in promising[:SHORTLIST]:
        choice, compared = _settle_labels(choice, before_NLM, measure, space, cases)
        if compared.is_accepted and compared.gain > best_gain:
            best, best_gain = choice, compared.gain
    return best


def _settle_labels(
    choice: Choice, before_NLM: Scores, measure: Measure, space: Space, cases: Cases
) -> tuple[Choice, Comparison]:
    """Take labels away until each that is left is helped: less changes with fewer labels."""
    while True:
        (after_NLM,) = measure([choice])[:, cases]
        compared = compare(before_NLM, after_NLM)
        fewer = _gated(choice, compared, space)
        if fewer.labels >= choice.labels:
            return choice, compared
        choice = fewer


def _gated(choice: Choice, compared: Comparison, space: Space) -> Choice:
    helped = {space.structures[index] for index in compared.helped}
    return replace(choice, labels=choice.labels & helped)


def add_rules(base: Choice, measure: Measure, space: Space, cases: Cases) -> Choice:
    """Return a choice with rules on top of it: of each group the best that is accepted, if any."""
    rules = range(len(space.rule_groups))
    candidates = [replace(base, rules=(number,)) for number in rules]
    before_NLM, *all_after = measure([base, *candidates])[:, cases]
    best: dict[str, tuple[float, int]] = {}
    for number, after_NLM in zip(rules, all_after, strict=True):
        compared = compare(before_NLM, after_NLM)
        group = space.rule_groups[number]
        if compared.is_accepted and compared.gain > best.get(group, (0.0, 0))[0]:
            best[group] = (compared.gain, number)
    if not best:
        return base
    together = replace(base, rules=tuple(sorted(number for _, number in best.values())))
    (after_NLM,) = measure([together])[:, cases]
    if compare(before_NLM, after_NLM).is_accepted:
        return together
    # Each helps, all do not: structures that share labels were changed by several.
    return replace(base, rules=(max(best.values())[1],))
