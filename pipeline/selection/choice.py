"""The best candidate on some cases: rules; a setting of the random field, and labels it may change.

Axes: C = candidates, N = cases, L = structures (labels or regions), M = metrics.
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
        settings: Numbers of those of the conditional random field; none where it does not apply.
        rule_groups: Group of each rule; at most one of a group is chosen.
    """

    structures: tuple[str, ...]
    settings: tuple[int, ...]
    rule_groups: tuple[str, ...]


def choose_setting(base: Choice, measure: Measure, space: Space, cases: Cases) -> Choice:
    """Return rules with the best setting before them that is accepted on some cases, if any.

    A setting changes only labels that it helps, each by itself as a candidate would have to. That
    is stricter than that none falls: a label that is neither helped nor harmed would fall on every
    other set of cases by chance.
    """
    everywhere = frozenset(space.structures)
    settings = [replace(base, setting=number, labels=everywhere) for number in space.settings]
    before_NLM, *all_after = measure([base, *settings])[:, cases]
    promising = []
    for choice, after_NLM in zip(settings, all_after, strict=True):
        compared = compare(before_NLM, after_NLM)
        if compared.helped:
            hope = float(compared.of_each[list(compared.helped)].sum())
            promising.append((hope, _gated(choice, compared, space)))
    promising.sort(key=lambda entry: -entry[0])
    best, most = base, 0.0
    for _, choice in promising[:SHORTLIST]:
        choice, compared = _settle_labels(choice, before_NLM, measure, space, cases)
        if choice.labels and compared.is_accepted and compared.worth > most:
            best, most = choice, compared.worth
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


def choose_rules(measure: Measure, space: Space, cases: Cases) -> Choice:
    """Return the best rule of each group that helps a label and harms none, if any.

    Each must be worth it for a label, all together for the mean of all.
    """
    candidates = [Choice(rules=(number,)) for number in range(len(space.rule_groups))]
    before_NLM, *all_after = measure([IDENTITY, *candidates])[:, cases]
    best: dict[str, tuple[float, int]] = {}
    for number, after_NLM in enumerate(all_after):
        compared = compare(before_NLM, after_NLM)
        group = space.rule_groups[number]
        # A label may fall a little: what ranks is what all of them gain.
        if compared.is_helpful and compared.worth > best.get(group, (0.0, 0))[0]:
            best[group] = (compared.worth, number)
    if not best:
        return IDENTITY
    together = Choice(rules=tuple(sorted(number for _, number in best.values())))
    # Each helps, all may not: structures that share labels were changed by several.
    for choice in (together, Choice(rules=(max(best.values())[1],))):
        (after_NLM,) = measure([choice])[:, cases]
        if compare(before_NLM, after_NLM).is_accepted:
            return choice
    return IDENTITY
