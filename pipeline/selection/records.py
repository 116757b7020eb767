"""The rows of a decision's evidence: candidates, structures, scores with and without."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from pipeline.evaluation import MEAN_OVER_LABELS
from pipeline.selection.candidates import IDENTITY, Candidates, Choice, Measure, setting_in_words
from pipeline.selection.decision import Verdict
from pipeline.selection.scoring import StoreMeasure
from pipeline.selection.statistics import (
    DICE,
    HD95,
    NSD,
    Scores,
    compare,
    mean_of_defined,
    pair_scores,
)
from pipeline.selection.trial import Trial

Kind = Literal["setting", "rule", "proposed", "accepted"]


class CandidateRecord(BaseModel):
    """How a candidate does on the validation cases that it was tried on.

    Attributes:
        name: What it does.
        kind: A setting of the conditional random field on all labels, before the rules that were
            chosen; a rule; all that was proposed together; or the part of it that was accepted.
        gain: Mean change of Dice.
        low: Lower end of its 95 % interval.
        high: Upper end.
        worst_label: The structure that fares worst, and `worst_change` its mean change of Dice or
            NSD, whichever is lower.
        num_better: Cases whose mean Dice rises, and `num_worse` falls.
        passes: Whether it would be accepted on these cases; a rule, if it is worth it for a label.
        nsd_gain: Mean change of NSD, from `nsd_low` to `nsd_high`. None in earlier versions.
        hd95_gain: Share by which the mean HD95 falls, from `hd95_low` to `hd95_high`.
        num_cases: That it was tried on.
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
    nsd_gain: float | None = None
    nsd_low: float | None = None
    nsd_high: float | None = None
    hd95_gain: float | None = None
    hd95_low: float | None = None
    hd95_high: float | None = None
    num_cases: int | None = None


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
        hd95_before: Mean HD95 without, in mm, and `hd95_after` with it; a case where only one of
            both masks has a false finding counts as 0 mm in the other. None in earlier versions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    may_change: bool
    num_cases: int
    dice_before: float
    dice_after: float
    nsd_before: float
    nsd_after: float
    hd95_before: float | None = None
    hd95_after: float | None = None


class ScoreRecord(BaseModel):
    """Mean scores of a structure by one way of cleaning up, as `trivox evaluate` has them.

    Attributes:
        way: none, rules, field, or field and rules.
        label: Name of the structure; `mean` for the mean over cases of each case's structures.
        num_cases: Where it has a Dice.
        dice: Mean Dice, and `nsd` mean NSD; None where undefined.
        hd95_mm: Mean HD95, in mm.
        volume_error_percent: Mean of predicted minus reference volume, in percent of that.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    way: str
    label: str
    num_cases: int
    dice: float | None
    nsd: float | None
    hd95_mm: float | None
    volume_error_percent: float | None


def candidate_record(
    name: str, kind: Kind, measure: Measure, pair: tuple[Choice, Choice], structures: Sequence[str]
) -> CandidateRecord:
    """Return how the second of two choices does against the first.

    Args:
        name: What it does.
        kind: Of candidate.
        measure: Scores choices on the cases that it was tried on.
        pair: What is to be beaten, and the candidate.
        structures: Names along the axis L.
    """
    before_NLM, after_NLM = measure(pair)
    found = compare(before_NLM, after_NLM)
    worst_L = np.nan_to_num(np.fmin(found.gain_LM[:, DICE], found.gain_LM[:, NSD]))
    worst = int(np.argmin(worst_L))
    (gain, nsd, hd95), low_M, high_M = found.gain_M.tolist(), found.low_M, found.high_M
    return CandidateRecord(
        name=name,
        kind=kind,
        gain=gain,
        low=float(low_M[DICE]),
        high=float(high_M[DICE]),
        worst_label=structures[worst],
        worst_change=float(worst_L[worst]),
        num_better=found.num_better,
        num_worse=found.num_worse,
        passes=found.is_helpful if kind == "rule" else found.is_accepted,
        nsd_gain=nsd,
        nsd_low=float(low_M[NSD]),
        nsd_high=float(high_M[NSD]),
        hd95_gain=hd95,
        hd95_low=float(low_M[HD95]),
        hd95_high=float(high_M[HD95]),
        num_cases=len(before_NLM),
    )


def structure_records(
    before_NLM: Scores, verdict: Verdict, structures: Sequence[str]
) -> tuple[StructureRecord, ...]:
    """Return what became of each structure that has scores."""
    after_NLM = before_NLM if verdict.after_NLM is None else verdict.after_NLM
    before_NLM, after_NLM = pair_scores(before_NLM, after_NLM)
    records = []
    for index, name in enumerate(structures):
        is_defined = ~np.isnan(before_NLM[:, index, DICE])
        if is_defined.any():
            before_M = before_NLM[is_defined, index].mean(axis=0).tolist()
            after_M = after_NLM[is_defined, index].mean(axis=0).tolist()
            records.append(
                StructureRecord(
                    name=name,
                    may_change=name in verdict.proposed.labels,
                    num_cases=int(is_defined.sum()),
                    dice_before=before_M[DICE],
                    dice_after=after_M[DICE],
                    nsd_before=before_M[NSD],
                    nsd_after=after_M[NSD],
                    hd95_before=before_M[HD95],
                    hd95_after=after_M[HD95],
                )
            )
    return tuple(records)


def score_records(
    way: str, scores_NLM: Scores, structures: Sequence[str]
) -> tuple[ScoreRecord, ...]:
    """Return the mean scores of each structure, and of all, by one way of cleaning up.

    Args:
        way: Its name.
        scores_NLM: Dice, NSD, HD95 in mm and volume error in percent.
        structures: Names along the axis L.
    """
    # Over cases the mean of each case's structures, as `summarise` has it.
    with_mean = [*structures, MEAN_OVER_LABELS]
    columns = np.concatenate([scores_NLM, mean_of_defined(scores_NLM, axis=1)[:, None]], axis=1)
    records = []
    for index, label in enumerate(with_mean):
        means = mean_of_defined(columns[:, index], axis=0).tolist()
        values = [None if np.isnan(mean) else mean for mean in means]
        count = int((~np.isnan(columns[:, index, DICE])).sum())
        dice, nsd, hd95_mm, volume = values
        records.append(
            ScoreRecord(
                way=way,
                label=label,
                num_cases=count,
                dice=dice,
                nsd=nsd,
                hd95_mm=hd95_mm,
                volume_error_percent=volume,
            )
        )
    return tuple(records)


@dataclass(frozen=True)
class Findings:
    """What a search found.

    Attributes:
        measure: Scores choices.
        candidates: That choices number.
        rules: What was decided on rules.
        num_cases: Of validation.
        trial: What was tried of the field, if anything.
        field: What was decided on it, if that could be.
    """

    measure: StoreMeasure
    candidates: Candidates
    rules: Verdict
    num_cases: int
    trial: Trial | None = None
    field: Verdict | None = None

    @property
    def has_field(self) -> bool:
        """Whether a field was accepted."""
        return self.field is not None and self.field.choice.setting is not None

    @property
    def verdict(self) -> Verdict:
        """What was decided in the end: on field and rules, or on rules alone."""
        if self.field is not None and (self.has_field or self.rules.proposed == IDENTITY):
            return self.field
        return self.rules

    @property
    def cases(self) -> Sequence[int]:
        """The cases that this rests on."""
        if self.verdict is self.field and self.trial is not None:
            return self.trial.cases
        return range(self.num_cases)


def candidate_records(found: Findings) -> tuple[CandidateRecord, ...]:
    """Return how each candidate does: settings, rules, what is proposed and taken."""
    return tuple(_candidate_records(found))


def _candidate_records(found: Findings) -> Iterator[CandidateRecord]:
    structures, candidates, base = found.measure.structures, found.candidates, found.rules.choice
    tried = {} if found.trial is None else found.trial.tried
    for number, cases in tried.items():
        field = replace(base, setting=number, labels=frozenset(structures))
        name, measure = setting_in_words(candidates.settings[number]), found.measure.of(cases)
        yield candidate_record(name, "setting", measure, (base, field), structures)
    for number, rule in enumerate(candidates.rules):
        pair = (IDENTITY, Choice(rules=(number,)))
        yield candidate_record(str(rule), "rule", found.measure, pair, structures)
    verdict, measure = found.verdict, found.measure.of(found.cases)
    if verdict.proposed != IDENTITY:
        name, pair = candidates.in_words(verdict.proposed), (IDENTITY, verdict.proposed)
        yield candidate_record(name, "proposed", measure, pair, structures)
    if verdict.choice not in (IDENTITY, verdict.proposed):
        name, pair = candidates.in_words(verdict.choice), (IDENTITY, verdict.choice)
        yield candidate_record(name, "accepted", measure, pair, structures)


def scores_by_way(found: Findings) -> tuple[tuple[ScoreRecord, ...], dict[str, str]]:
    """Return the scores without clean-up, with rules, with the field and with both; what each does.

    What was not accepted is shown too, as the best that was found of its kind. Where the field was
    tried on fewer cases than there are, its scores stand beside those of the others on these cases.
    """
    rules = _rules_to_show(found)
    ways = {"none": IDENTITY, "rules": rules}
    records = _scores(found, ways, range(found.num_cases), "")
    said = {"none": "labels as the network makes them", "rules": _said(found, rules)}
    if found.trial is not None and found.trial.cases:
        field = _field_to_show(found)
        with_field = {"field": field, "field and rules": replace(field, rules=rules.rules)}
        cases = found.trial.cases
        if len(cases) < found.num_cases:
            records += _scores(found, ways | with_field, cases, f" ({len(cases)} cases)")
        else:
            records += _scores(found, with_field, cases, "")
        said["field"] = _said(found, field)
    return tuple(records), said


def chosen_way(choice: Choice) -> str:
    """Return the name of the way that a choice is."""
    parts = ["field"] * (choice.setting is not None) + ["rules"] * bool(choice.rules)
    return " and ".join(parts) or "none"


def _scores(
    found: Findings, ways: dict[str, Choice], cases: Sequence[int], suffix: str
) -> list[ScoreRecord]:
    structures, scores = found.measure.structures, found.measure.of(cases)(list(ways.values()))
    return [
        record
        for way, of_way in zip(ways, scores, strict=True)
        for record in score_records(way + suffix, of_way, structures)
    ]


def _said(found: Findings, choice: Choice) -> str:
    """Say what a part of the table does, and whether it was chosen."""
    chosen = found.verdict.choice
    is_chosen = choice.rules == chosen.rules if choice.setting is None else found.has_field
    words = found.candidates.in_words(choice)
    return words if choice == IDENTITY else f"{words} ({'chosen' if is_chosen else 'not chosen'})"


def _rules_to_show(found: Findings) -> Choice:
    """Return the rules that were chosen, or proposed; or the one that does best."""
    for rules in (found.rules.choice, found.rules.proposed):
        if rules != IDENTITY:
            return rules
    singles = [Choice(rules=(number,)) for number in range(len(found.candidates.rules))]
    return _best(found, IDENTITY, singles, range(found.num_cases))


def _field_to_show(found: Findings) -> Choice:
    """Return the field that was chosen, or proposed; or the setting that does best. No rules."""
    assert found.trial is not None
    if found.field is not None:
        for choice in (found.field.choice, found.field.proposed):
            if choice.setting is not None:
                return replace(choice, rules=())
    cases, everywhere = found.trial.cases, frozenset(found.measure.structures)
    settings = [
        Choice(number, everywhere)
        for number, of_setting in found.trial.tried.items()
        if set(cases) <= set(of_setting)
    ]
    return _best(found, IDENTITY, settings, cases)


def _best(found: Findings, base: Choice, choices: Sequence[Choice], cases: Sequence[int]) -> Choice:
    if not choices or not cases:
        return base
    before_NLM, *all_after = found.measure.of(cases)([base, *choices])
    worths = [compare(before_NLM, after_NLM).worth for after_NLM in all_after]
    return choices[worths.index(max(worths))]
