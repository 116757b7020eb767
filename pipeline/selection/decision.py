"""Which post-processing is chosen, and whether the choice holds: no files, no volumes.

The choice is made among many candidates, so its scores on the cases that it was made on flatter it.
It is therefore made once more for each fold on the cases of all others, and applied to that fold;
only what is accepted by these pooled scores too is taken of the choice on all cases. What accepted
means, `pipeline.selection.statistics` says.

Axes: N = cases, L = structures (labels or regions), M = Dice and NSD.

Source:
    Nested folds: Varma and Simon, Bias in error estimation when using cross-validation for model
    selection, BMC Bioinformatics 7, 2006, doi:10.1186/1471-2105-7-91.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipeline.selection.choice import (
    IDENTITY,
    Cases,
    Choice,
    Measure,
    Space,
    add_rules,
    choose_setting,
)
from pipeline.selection.statistics import Comparison, Scores, compare

MIN_CASES = 10
"""With fewer, nothing is chosen: intervals over so few cases say little."""


@dataclass(frozen=True)
class Verdict:
    """What was decided, and on what grounds.

    Attributes:
        choice: To be used; `IDENTITY` if nothing was accepted.
        proposed: The choice on all cases, whether or not the folds confirmed it.
        reason: Why, in words.
        nested: What is accepted against doing nothing, on cases that it was not chosen on; what is
            proposed, if nothing is accepted; None if nothing is proposed.
        of_folds: The choice of each fold that this rests on, made on the other folds.
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
    judge = _Judge(measure, fold_N)
    # The first are made on all cases, the others each on all but a fold.
    splits = [np.ones(len(fold_N), bool), *(fold_N != fold for fold in np.unique(fold_N))]
    fields = [choose_setting(measure, space, cases) for cases in splits]
    choices = _with_rules(fields, measure, space, splits)
    proposed = choices[0]
    if proposed == IDENTITY:
        reason = "no candidate raises the mean without harm to a label: labels stay as they are"
        return Verdict(IDENTITY, IDENTITY, reason)
    confirmed, refused = _confirm(fields, choices, judge, space, splits)
    shown = choices if confirmed[0] == IDENTITY else confirmed
    nested = judge.compare([IDENTITY] * len(shown), shown)
    is_accepted = confirmed[0] != IDENTITY and nested.is_accepted
    return Verdict(
        confirmed[0] if is_accepted else IDENTITY,
        proposed,
        _reason(nested, refused, space, is_accepted=is_accepted),
        nested,
        tuple(shown[1:]),
        judge.pool(shown),
    )


@dataclass(frozen=True)
class _Judge:
    """Scores choices of folds on the folds that they were not made on."""

    measure: Measure
    fold_N: npt.NDArray[np.int64]

    def pool(self, choices: Sequence[Choice]) -> Scores:
        """Return the scores `(N, L, M)` of choices, the first of which is of no fold."""
        pooled_NLM: Scores = self.measure([IDENTITY])[0].copy()
        for fold, choice in zip(np.unique(self.fold_N), choices[1:], strict=True):
            is_held_out = self.fold_N == fold
            pooled_NLM[is_held_out] = self.measure([choice])[0][is_held_out]
        return pooled_NLM

    def compare(
        self, before: Sequence[Choice], after: Sequence[Choice], num_tests: int = 1
    ) -> Comparison:
        return compare(self.pool(before), self.pool(after), num_tests)


def _confirm(
    fields: list[Choice],
    choices: list[Choice],
    judge: _Judge,
    space: Space,
    splits: Sequence[Cases],
) -> tuple[list[Choice], list[str]]:
    """Leave of choices the parts that hold on the folds that they were not made on.

    The field is a part, and each group of rules: one that does not hold takes no other with it. As
    each is a test of its own, each interval is as wide as for all together.

    Returns:
        The choices with what is left, and what was refused, in words.
    """
    refused = []
    num_parts = len(choices[0].rules) + (choices[0].setting is not None)
    nothing = [IDENTITY] * len(fields)
    if fields[0] != IDENTITY and not judge.compare(nothing, fields, num_parts).is_accepted:
        refused.append("the conditional random field")
    if fields[0] != IDENTITY and not refused:
        # A label that no fold's choice helps was confirmed by none.
        gains_L = judge.compare(nothing, fields, num_parts).dice_L
        helped = {n for n, gain in zip(space.structures, gains_L, strict=True) if gain > 0}
        fields = [_on_labels(choice, helped) for choice in fields]
        choices = [_on_labels(choice, helped) for choice in choices]
    if fields[0] == IDENTITY or refused:
        fields = nothing
        choices = _with_rules(fields, judge.measure, space, splits)
    kept = set()
    for group in dict.fromkeys(space.rule_groups[number] for number in choices[0].rules):
        only = [_of_groups(choice, {group}, space) for choice in choices]
        if judge.compare(fields, only, num_parts).is_accepted:
            kept.add(group)
        else:
            refused.append(group)
    return [_of_groups(choice, kept, space) for choice in choices], refused


def _on_labels(choice: Choice, labels: Collection[str]) -> Choice:
    """Return a choice whose field may change only some labels; without it if none is left."""
    left = choice.labels.intersection(labels)
    return replace(choice, labels=left, setting=choice.setting if left else None)


def _of_groups(choice: Choice, groups: Collection[str], space: Space) -> Choice:
    rules = tuple(number for number in choice.rules if space.rule_groups[number] in groups)
    return replace(choice, rules=rules)


def _with_rules(
    fields: Sequence[Choice], measure: Measure, space: Space, splits: Sequence[Cases]
) -> list[Choice]:
    return [
        add_rules(field, measure, space, cases) for field, cases in zip(fields, splits, strict=True)
    ]


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


def _reason(nested: Comparison, refused: Sequence[str], space: Space, *, is_accepted: bool) -> str:
    found = (
        f"chosen on the other folds, it changes the mean Dice by {nested.gain:+.4f} "
        f"[{nested.low:+.4f}, {nested.high:+.4f}] on cases it was not chosen on"
    )
    if is_accepted:
        left_out = f"; left out, as it did not hold there: {', '.join(refused)}" * bool(refused)
        return f"accepted: {found}, and no label falls in Dice or NSD{left_out}"
    if nested.falling:
        names = ", ".join(space.structures[index] for index in nested.falling[:5])
        more = f" and {len(nested.falling) - 5} more" * (len(nested.falling) > 5)
        verb = "falls" if len(nested.falling) == 1 else "fall"
        return f"refused: {found}, and there {names}{more} {verb} in Dice or NSD"
    return f"refused: {found}; a gain by chance looks like that"
