"""The rows of a decision's evidence: one for each candidate, one for each structure."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from pipeline.selection.candidates import Candidates, setting_in_words
from pipeline.selection.choice import IDENTITY, Choice, Measure
from pipeline.selection.decision import Verdict
from pipeline.selection.statistics import Comparison, Scores, compare, pair_scores

Kind = Literal["setting", "rule", "proposed", "accepted"]


class CandidateRecord(BaseModel):
    """How a candidate does on all validation cases.

    Attributes:
        name: What it does.
        kind: A setting of the conditional random field on all labels; a rule, on top of the setting
            that was proposed; all that was proposed together; or the part of it that was accepted.
        gain: Mean change of Dice.
        low: Lower end of its 95 % interval.
        high: Upper end.
        worst_label: The structure that fares worst, and `worst_change` its mean change of Dice or
            NSD, whichever is lower.
        num_better: Cases whose mean Dice rises, and `num_worse` falls.
        passes: Whether it would be accepted on these cases.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: Kind
    gain: float
    low: float
    high: float
    worst_label: str
    worst_change: float
    num_better: int
    num_worse: int
    passes: bool


class StructureRecord(BaseModel):
    """What post-processing does to a structure, by choices on cases that they were not made on.

    Attributes:
        name: Of the label or region.
        may_change: Whether the conditional random field that was proposed may change it.
        num_cases: Where it has scores.
        dice_before: Mean over these cases, without post-processing; a case where only one of both
            masks has a false finding counts as 1 in the other.
        dice_after: The same with it.
        nsd_before: Mean NSD without, and `nsd_after` with it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    may_change: bool
    num_cases: int
    dice_before: float
    dice_after: float
    nsd_before: float
    nsd_after: float


def candidate_records(
    candidates: Candidates, verdict: Verdict, measure: Measure, structures: Sequence[str]
) -> tuple[CandidateRecord, ...]:
    """Return how each candidate does on all cases: settings, rules, what is proposed and taken."""
    return tuple(_candidate_records(candidates, verdict, measure, structures))


def _candidate_records(
    candidates: Candidates, verdict: Verdict, measure: Measure, structures: Sequence[str]
) -> Iterator[CandidateRecord]:
    proposed = verdict.proposed
    everywhere = frozenset(structures)
    for number, setting in enumerate(candidates.settings):
        found = _compare(measure, IDENTITY, Choice(number, everywhere))
        yield _record(setting_in_words(setting), "setting", found, structures)
    base = replace(proposed, rules=())
    for number, rule in enumerate(candidates.rules):
        found = _compare(measure, base, replace(base, rules=(number,)))
        yield _record(str(rule), "rule", found, structures)
    if proposed != IDENTITY:
        found = _compare(measure, IDENTITY, proposed)
        yield _record(candidates.in_words(proposed), "proposed", found, structures)
    if verdict.choice not in (IDENTITY, proposed):
        found = _compare(measure, IDENTITY, verdict.choice)
        yield _record(candidates.in_words(verdict.choice), "accepted", found, structures)


def structure_records(
    before_NLM: Scores, verdict: Verdict, structures: Sequence[str]
) -> tuple[StructureRecord, ...]:
    """Return what became of each structure that has scores."""
    after_NLM = before_NLM if verdict.after_NLM is None else verdict.after_NLM
    before_NLM, after_NLM = pair_scores(before_NLM, after_NLM)
    records = []
    for index, name in enumerate(structures):
        is_defined = ~np.isnan(before_NLM[:, index, 0])
        if is_defined.any():
            dice_before, nsd_before = before_NLM[is_defined, index].mean(axis=0).tolist()
            dice_after, nsd_after = after_NLM[is_defined, index].mean(axis=0).tolist()
            records.append(
                StructureRecord(
                    name=name,
                    may_change=name in verdict.proposed.labels,
                    num_cases=int(is_defined.sum()),
                    dice_before=dice_before,
                    dice_after=dice_after,
                    nsd_before=nsd_before,
                    nsd_after=nsd_after,
                )
            )
    return tuple(records)


def _compare(measure: Measure, one: Choice, other: Choice) -> Comparison:
    return compare(*measure([one, other]))


def _record(
    name: str,
    kind: Kind,
    found: Comparison,
    structures: Sequence[str],
) -> CandidateRecord:
    worst_L = np.nan_to_num(np.fmin(found.dice_L, found.nsd_L))
    worst = int(np.argmin(worst_L))
    return CandidateRecord(
        name=name,
        kind=kind,
        gain=found.gain,
        low=found.low,
        high=found.high,
        worst_label=structures[worst],
        worst_change=float(worst_L[worst]),
        num_better=found.num_better,
        num_worse=found.num_worse,
        passes=found.is_accepted,
    )
