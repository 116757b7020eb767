"""Which post-processing is chosen, and whether the choice holds: no files, no volumes.

The choice is made among many candidates, so its scores on the cases that it was made on flatter it.
It is therefore made once more for each fold on the cases of all others, and applied to that fold;
only what is accepted by these pooled scores too is taken of the choice on all cases. What accepted
means, `pipeline.selection.statistics` says.

Rules come first, on all cases. A conditional random field is then judged by what it adds to them,
on the cases that it was tried on. What anatomy allows, rules that change no training label, is
added if it costs nothing on validation: a stray piece far away costs little Dice and much trust.
Where cases are too few for all else, there are only those.

Axes: N = cases, L = structures (labels or regions), M = metrics.

Source:
    Nested folds: Varma and Simon, Bias in error estimation when using cross-validation for model
    selection, BMC Bioinformatics 7, 2006, doi:10.1186/1471-2105-7-91.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipeline.selection.candidates import (
    IDENTITY,
    Cases,
    Choice,
    Measure,
    Space,
    choose_rules,
    choose_setting,
)
from pipeline.selection.statistics import LEAST_GAIN, Comparison, Scores, compare

MIN_CASES = 10
"""With fewer, nothing is chosen by what it gains: intervals over so few cases say little."""

Folds = npt.NDArray[np.int64]
"""`(N,)`: number of the fold of each case."""


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


def decide_rules(measure: Measure, space: Space, fold_N: Folds) -> Verdict:
    """Choose rules and judge the choice on cases that it was not made on.

    Args:
        measure: Scores choices on all cases.
        space: What can be chosen.
        fold_N: Fold of each case.
    """
    judge = _Judge(measure, fold_N)
    choices = [choose_rules(measure, space, cases) for cases in _splits(fold_N)]
    proposed = choices[0]
    if proposed == IDENTITY:
        return Verdict(IDENTITY, IDENTITY, "no rule gains enough without harm to a label")
    nothing = [IDENTITY] * len(choices)
    kept, refused = set(), []
    for group in dict.fromkeys(space.rule_groups[number] for number in proposed.rules):
        only = [_of_groups(choice, {group}, space) for choice in choices]
        # Each is a test of its own: each interval is as wide as for all together.
        if judge.compare(nothing, only, len(proposed.rules)).is_helpful:
            kept.add(group)
        else:
            refused.append(group)
    confirmed = [_of_groups(choice, kept, space) for choice in choices]
    shown = confirmed if kept else choices
    nested = judge.compare(nothing, shown)
    is_accepted = bool(kept) and nested.is_accepted
    return Verdict(
        confirmed[0] if is_accepted else IDENTITY,
        proposed,
        _reason(nested, refused, space, is_accepted=is_accepted),
        nested,
        tuple(shown[1:]),
        judge.pool(shown),
    )


def decide_field(
    measure: Measure, space: Space, fold_N: Folds, rules: Verdict, of_rules: Folds, fresh_N: Cases
) -> Verdict:
    """Choose a field before the rules that were chosen, and judge it as those were.

    Args:
        measure: Scores choices on the cases that the field was tried on.
        space: What can be chosen.
        fold_N: Fold of each of these cases.
        rules: From `decide_rules`, on all cases.
        of_rules: The folds that those were chosen on, `(N,)` of all cases.
        fresh_N: Which of the cases that the field was tried on took no part in choosing the few
            settings that went the whole way.
    """
    judge = _Judge(measure, fold_N)
    bases = _bases(rules, np.unique(of_rules), np.unique(fold_N))
    fields = [
        choose_setting(base, measure, space, cases)
        for base, cases in zip(bases, _splits(fold_N), strict=True)
    ]
    proposed = fields[0]
    if proposed == bases[0]:
        return Verdict(rules.choice, proposed, "no setting gains enough without harm to a label")
    num_parts = len(proposed.rules) + 1
    found = judge.compare(bases, fields, num_parts)
    if found.is_accepted:
        # A label that no fold's choice helps was confirmed by none.
        helped = {n for n, gain in zip(space.structures, found.of_each, strict=True) if gain > 0}
        fields = [
            _on_labels(field, helped, base) for field, base in zip(fields, bases, strict=True)
        ]
        found = judge.compare(bases, fields, num_parts)
    is_accepted = found.is_accepted and fields[0] != bases[0]
    held = "chosen on the other folds, "
    if is_accepted and fresh_N.any():
        fresh = compare(judge.pool(bases)[fresh_N], judge.pool(fields)[fresh_N])
        if fresh.worth <= 0:
            is_accepted, found = False, fresh
            held = f"on the {fresh_N.sum()} cases that no setting was picked on, "
    reason = _reason(found, [], space, is_accepted=is_accepted, held=held)
    nothing = [IDENTITY] * len(fields)
    return Verdict(
        fields[0] if is_accepted else rules.choice,
        proposed,
        reason,
        judge.compare(nothing, fields),
        tuple(fields[1:]),
        judge.pool(fields),
    )


def add_harmless(
    verdict: Verdict, measure: Measure, numbers: Sequence[int], fold_N: Folds
) -> Verdict:
    """Add the rules, one after the other, with which no label is worse on validation.

    For rules that follow from training labels, not from validation: nothing was chosen there that
    its scores could flatter.

    Args:
        verdict: What was chosen by its gain.
        measure: Scores choices on all cases.
        numbers: Of the rules that anatomy allows.
        fold_N: Fold of each case.
    """
    chosen = verdict.choice.rules
    kept = chosen
    for number in numbers:
        before, after = Choice(rules=kept), Choice(rules=tuple(sorted((*kept, number))))
        if compare(*measure([before, after])).costs_nothing:
            kept = after.rules
    if kept == chosen:
        return verdict
    added = set(kept) - set(chosen)
    bases = verdict.of_folds if chosen else (IDENTITY,) * len(np.unique(fold_N))
    of_folds = [Choice(rules=tuple(sorted({*base.rules, *added}))) for base in bases]
    judge, choices = _Judge(measure, fold_N), [Choice(rules=kept), *of_folds]
    nested = judge.compare([IDENTITY] * len(choices), choices)
    return replace(
        verdict,
        choice=choices[0],
        nested=nested,
        of_folds=tuple(of_folds),
        after_NLM=judge.pool(choices),
    )


def decide_anatomy(measure: Measure, num_rules: int) -> Verdict:
    """Take the rules, one after the other, with which no label is worse on validation.

    Args:
        measure: Scores choices on all validation cases.
        num_rules: That training labels allow.
    """
    kept: tuple[int, ...] = ()
    for number in range(num_rules):
        rules = (*kept, number)
        if compare(*measure([IDENTITY, Choice(rules=rules)])).costs_nothing:
            kept = rules
    return Verdict(Choice(rules=kept), Choice(rules=tuple(range(num_rules))), "")


@dataclass(frozen=True)
class _Judge:
    """Scores choices of folds on the folds that they were not made on."""

    measure: Measure
    fold_N: Folds

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
        # Each metric is a chance of its own to gain.
        return compare(self.pool(before), self.pool(after), num_tests * len(LEAST_GAIN))


def _splits(fold_N: Folds) -> list[Cases]:
    """Return the cases of each choice: the first is made on all, the others on all but a fold."""
    return [np.ones(len(fold_N), bool), *(fold_N != fold for fold in np.unique(fold_N))]


def _bases(rules: Verdict, all_folds: Folds, folds: Folds) -> list[Choice]:
    """Return the rules that a field comes before: those of all cases, and those of each fold."""
    if rules.choice == IDENTITY:
        return [IDENTITY] * (1 + len(folds))
    of_fold = dict(zip(all_folds.tolist(), rules.of_folds, strict=True))
    return [rules.choice, *(of_fold[fold] for fold in folds.tolist())]


def _on_labels(choice: Choice, labels: Collection[str], base: Choice) -> Choice:
    """Return a choice whose field may change only some labels; without it if none is left."""
    left = choice.labels.intersection(labels)
    return replace(choice, labels=left) if left else base


def _of_groups(choice: Choice, groups: Collection[str], space: Space) -> Choice:
    rules = tuple(number for number in choice.rules if space.rule_groups[number] in groups)
    return replace(choice, rules=rules)


def why_few(fold_N: Folds) -> str:
    """Return why nothing can be chosen by what it gains on these cases; empty if it can.

    Args:
        fold_N: Fold of each case.
    """
    if len(fold_N) < MIN_CASES:
        return f"{len(fold_N)} validation cases, and fewer than {MIN_CASES} say too little"
    if len(np.unique(fold_N)) < 2:
        return "all validation cases are of one subject, so none is left to confirm a choice"
    return ""


def _reason(
    found: Comparison,
    refused: Sequence[str],
    space: Space,
    *,
    is_accepted: bool,
    held: str = "chosen on the other folds, ",
) -> str:
    gain = f"{held}it changes {in_words(found)} on cases it was not chosen on"
    if is_accepted:
        left_out = f"; left out, as it did not hold there: {', '.join(refused)}" * bool(refused)
        return f"accepted: {gain}, and no label falls{left_out}"
    if found.falling:
        names = ", ".join(space.structures[index] for index in found.falling[:5])
        more = f" and {len(found.falling) - 5} more" * (len(found.falling) > 5)
        verb = "falls" if len(found.falling) == 1 else "fall"
        return f"refused: {gain}, and there {names}{more} {verb} in Dice, NSD or HD95"
    return f"refused: {gain}; that is too little to matter, or looks like chance"


def in_words(found: Comparison) -> str:
    """Return what a candidate gains, with intervals."""
    (dice, nsd, hd95), low_M, high_M = found.gain_M, found.low_M, found.high_M
    return (
        f"the mean Dice by {dice:+.4f} [{low_M[0]:+.4f}, {high_M[0]:+.4f}], "
        f"the NSD by {nsd:+.4f} [{low_M[1]:+.4f}, {high_M[1]:+.4f}] and "
        f"the HD95 by {-hd95:+.1%} [{-high_M[2]:+.1%}, {-low_M[2]:+.1%}]"
    )
