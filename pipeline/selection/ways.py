"""What there is to show of a search: each candidate, and the scores without and with clean-up."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline.selection.candidates import Candidates, setting_in_words
from pipeline.selection.choice import IDENTITY, Choice
from pipeline.selection.decision import Verdict
from pipeline.selection.records import (
    CandidateRecord,
    ScoreRecord,
    candidate_record,
    score_records,
)
from pipeline.selection.scoring import StoreMeasure
from pipeline.selection.statistics import compare
from pipeline.selection.trial import Trial


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
