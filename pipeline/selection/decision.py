"""Which post-processing is chosen, and whether the choice holds: no files, no volumes.

The choice is made among many candidates, so its scores on the cases that it was made on flatter it.
It is therefore made once more for each fold on the cases of all others, and applied to that fold;
only if these pooled scores are accepted too is the choice on all cases taken. What is accepted,
`pipeline.selection.statistics` says.

A setting of the conditional random field changes only labels that it helps, each by itself as a
candidate would have to. That is stricter than that none falls: a label that is neither helped nor
harmed would fall in every other confirmation by chance.

Axes: C = candidates, N = cases, L = structures (labels or regions), M = Dice and NSD.

Source:
    Nested folds: Varma and Simon, Bias in error estimation when using cross-validation for model
    selection, BMC Bioinformatics 7, 2006, doi:10.1186/1471-2105-7-91.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipeline.selection.statistics import Comparison, Scores, compare

Cases = npt.NDArray[np.bool_]
"""`(N,)`: which cases a candidate is judged on."""

MIN_CASES = 10
"""With fewer, nothing is chosen: intervals over so few cases say little."""

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


@dataclass(frozen=True)
class Verdict:
    """What was decided, and on what grounds.

    Attributes:
        choice: To be used; `IDENTITY` if nothing was accepted.
        proposed: The choice on all cases, whether or not the folds confirmed it.
        reason: Why, in words.
        nested: The proposed way of choosing against doing nothing, on cases it did not see; None if
            it did not come to that.
        of_folds: The choice of each fold, made on the others.
        after_NLM: Scores of those choices, each on its own fold.
    """

    choice: Choice
    proposed: Choice
    reason: str
    nested: Comparison | None = None
    of_folds: tuple[Choice, ...] = ()
    after_NLM: Scores | None = None


def decide(measure: Measure, space: Space, fold_N: npt.NDArray[np.int64]) -> Verdict:
    """Choose post-processing and judge the choice on cases that it was not made on.

    Args:
        measure: Scores choices on all cases.
        space: What can be chosen.
        fold_N: Fold of each case.
    """
    if reason := why_off(fold_N):
        return Verdict(IDENTITY, IDENTITY, reason)
    proposed = choose(measure, space, np.ones(len(fold_N), bool))
    if proposed == IDENTITY:
        reason = "no candidate raises the mean without harm to a label: labels stay as they are"
        return Verdict(IDENTITY, IDENTITY, reason)
    (before_NLM,) = measure([IDENTITY])
    after_NLM, of_folds = before_NLM.copy(), []
    for fold in np.unique(fold_N):
        is_held_out = fold_N == fold
        choice = choose(measure, space, ~is_held_out)
        after_NLM[is_held_out] = measure([choice])[0][is_held_out]
        of_folds.append(choice)
    nested = compare(before_NLM, after_NLM)
    accepted = proposed if nested.is_accepted else IDENTITY
    return Verdict(accepted, proposed, _reason(nested, space), nested, tuple(of_folds), after_NLM)


def why_off(fold_N: npt.NDArray[np.int64]) -> str:
    """Return why nothing can be chosen on these cases; empty if it can.

    Args:
        fold_N: Fold of each case.
    """
    if len(fold_N) < MIN_CASES:
        return f"off: {len(fold_N)} validation cases, and fewer than {MIN_CASES} say too little"
    if len(np.unique(fold_N)) < 2:
        return "off: all validation cases are of one subject, so none is left to confirm a choice"
    return ""


def choose(measure: Measure, space: Space, cases: Cases) -> Choice:
    """Return the best choice that is accepted on some cases, or `IDENTITY`.

    First a setting of the conditional random field, together with the labels that it may change;
    then rules on top of it, of each group the best.
    """
    base = _choose_setting(measure, space, cases)
    return _add_rules(base, measure, space, cases)


def _choose_setting(measure: Measure, space: Space, cases: Cases) -> Choice:
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


def _add_rules(base: Choice, measure: Measure, space: Space, cases: Cases) -> Choice:
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


def _reason(nested: Comparison, space: Space) -> str:
    found = (
        f"chosen on the other folds, it changes the mean Dice by {nested.gain:+.4f} "
        f"[{nested.low:+.4f}, {nested.high:+.4f}] on cases it was not chosen on"
    )
    if nested.is_accepted:
        return f"accepted: {found}, and no label falls in Dice or NSD"
    if nested.falling:
        names = ", ".join(space.structures[index] for index in nested.falling[:5])
        more = f" and {len(nested.falling) - 5} more" * (len(nested.falling) > 5)
        return f"refused: {found}, and there {names}{more} fall in Dice or NSD"
    return f"refused: {found}; a gain by chance looks like that"
