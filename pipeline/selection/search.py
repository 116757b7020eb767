"""`search_postprocessing()`: from a finished run to the post-processing of its model."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from pipeline import __version__
from pipeline.postprocessing import PostprocessingConfig
from pipeline.selection.anatomy import Anatomy, read_anatomy
from pipeline.selection.candidates import IDENTITY, Candidates, Choice, make_candidates
from pipeline.selection.clock import Clock
from pipeline.selection.decision import (
    MIN_CASES,
    add_harmless,
    decide_anatomy,
    decide_field,
    decide_rules,
    why_few,
)
from pipeline.selection.evidence import Decision, read_decision, store_decision
from pipeline.selection.field import Fields, Refine, random_field
from pipeline.selection.finished_run import FinishedRun, open_run
from pipeline.selection.out_of_fold import CaseStore
from pipeline.selection.records import (
    Findings,
    candidate_records,
    chosen_way,
    scores_by_way,
    structure_records,
)
from pipeline.selection.scoring import StoreMeasure
from pipeline.selection.statistics import CONFIDENCE, NUM_RESAMPLES
from pipeline.selection.trial import FieldTrial, spread
from pipeline.system.private import RUN_LOCK, only_run
from pipeline.system.progress import track

logger = logging.getLogger(__name__)

Outcome = Literal["accepted", "refused", "nothing", "off"]

SHARE_OF_ANATOMY = 0.25
"""Of the time that is left, what reading training labels may take at most; but `SHARE_OF_SCORING`
of all time in any case."""

SHARE_AFTER = 0.25
"""Of the time of scoring each candidate, what scoring several together takes afterwards."""

SHARE_OF_SCORING = 0.1
"""Of all time, what is left for scores when no further field is tried."""


def search_postprocessing(
    model: Path,
    overrides: Sequence[str] = (),
    device: torch.device | None = None,
    refine: Refine | None = None,
    *,
    seconds: float | None = None,
) -> Decision:
    """Choose a model's post-processing on cases that it never saw; store it with the evidence.

    Stopped at any time, the same call goes on where it was, and the model is as it was.

    Args:
        model: The folder `model` of a finished run.
        overrides: Words such as `data.root=...`, if the data lies elsewhere by now.
        device: To compute on; the CPU by default.
        refine: The conditional random field; another one only in tests.
        seconds: That it may take; None: any time.

    Raises:
        PipelineError: If the run, its members or its data cannot be read.
    """
    clock = Clock(seconds)
    run = open_run(model, overrides)
    if note := run.note():
        logger.warning("%s: %s", model, note)
    again = "Wait for it or stop it, and run the same command again."
    bound = "" if seconds is None else f", within {seconds:.0f} s"
    logger.info("choosing post-processing on %d held-out cases%s", len(run.cases), bound)
    with only_run(run.folder.path, remedy=again, lock=RUN_LOCK):
        device = device or torch.device("cpu")
        search = _Search(run, refine or random_field(device), device, clock)
        decision = search.decide()
        store_decision(decision, run.description, run.folder.model)
        run.remove_selection()
    logger.info("post-processing of %s: %s", model, decision.reason)
    return decision


@dataclass(frozen=True)
class _Search:
    run: FinishedRun
    refine: Refine
    device: torch.device
    clock: Clock

    def decide(self) -> Decision:
        """Choose by what is gained, or with too few cases by anatomy."""
        few = why_few(self.run.fold_N)
        return self._by_anatomy(few) if few else self._by_gain()

    def _by_gain(self) -> Decision:
        candidates = make_candidates(self.run.description)
        each = [Choice(rules=(number,)) for number in range(len(candidates.rules))]
        search, store, measure, on_cases = self._score(candidates, [IDENTITY, *each])
        return search._choose(store, measure, candidates, on_cases)

    def _score(
        self, candidates: Candidates, choices: Sequence[Choice]
    ) -> tuple["_Search", CaseStore, StoreMeasure, str]:
        """Score choices case by case while there is time.

        Args:
            candidates: That choices number.
            choices: That have to be scored in any case.

        Returns:
            A search on the cases that were done, these cases, their scores, and how many they are
            in words; none if they are all.
        """
        run, clock = self.run, self.clock
        store = CaseStore(run, self.device)
        measure = StoreMeasure(store, run.description, candidates, run.evaluation)
        order, done, begun_s = spread([c.name for c in run.cases], run.fold_N), 0, clock.spent_s
        what = f"Scoring {len(choices)} candidates on held-out cases"
        for index in track(order, what, len(order)):
            case_s = (clock.spent_s - begun_s) / max(done, 1)
            if done >= MIN_CASES and clock.left_s <= (1 + SHARE_AFTER * done) * case_s:
                break
            measure.of([index])(choices)
            done += 1
        if done == len(order):
            return self, store, measure, ""
        cases = sorted(order[:done])
        fewer = measure.only(cases)
        said = f", on {done} of {len(order)} validation cases, as many as there was time for"
        return replace(self, run=run.only(cases)), fewer.store, fewer, said

    def _choose(
        self, store: CaseStore, measure: StoreMeasure, candidates: Candidates, on_cases: str
    ) -> Decision:
        """Choose rules, and what goes before them, by what is gained on the cases."""
        run = self.run
        rules = decide_rules(measure, candidates.space(measure.structures), run.fold_N)
        allowed, anatomy = self._allowed(candidates)
        by_gain = rules.choice.rules
        rules = add_harmless(rules, measure, sorted(allowed - set(by_gain)), run.fold_N)
        found = Findings(measure, candidates, rules, len(run.cases))
        free = {
            candidates.rules[number].label for number in allowed.intersection(rules.choice.rules)
        }
        of_anatomy = _of_anatomy(candidates, by_gain, rules.choice.rules, allowed, anatomy)
        found, field_reason = self._try_field(found, store)
        chosen = candidates.config_of(found.verdict.choice)
        if found.verdict.choice != IDENTITY:
            largest = measure.largest_change(found.verdict.choice, found.cases)
            free -= found.verdict.choice.labels
            largest = {name: share for name, share in largest.items() if name not in free}
            chosen = chosen.model_copy(update={"largest_change": largest})
        if found.verdict.choice != IDENTITY:
            outcome: Outcome = "accepted"
        else:
            outcome = "nothing" if found.verdict.nested is None else "refused"
        reason = f"rules{on_cases}: {rules.reason}{of_anatomy}; {field_reason}"
        return self._record(outcome, reason, found, chosen)

    def _allowed(self, candidates: Candidates) -> tuple[set[int], Anatomy]:
        """Return the rules that keep the largest piece of labels of one piece, by their numbers.

        Such a label keeps its largest piece however much of it that takes away. Of all other
        labels, what was seen on validation bounds what may change: with few cases, the worst of
        those to come would be left as they are.
        """
        anatomy = self._read_anatomy(self.run.description.labels)
        of_one_piece = {rule for rule in anatomy.rules if rule.keep_largest == 1}
        numbers = {number for number, rule in enumerate(candidates.rules) if rule in of_one_piece}
        return numbers, anatomy

    def _read_anatomy(self, labels: Mapping[str, int]) -> Anatomy:
        clock, bound = self.clock, Clock()
        if clock.max_seconds is not None:
            bound = Clock(
                max(SHARE_OF_ANATOMY * clock.left_s, SHARE_OF_SCORING * clock.max_seconds)
            )
        return read_anatomy(self.run.training_cases, labels, self.run.manifest.study, bound)

    def _try_field(self, found: Findings, store: CaseStore) -> tuple[Findings, str]:
        run, candidates, measure = self.run, found.candidates, found.measure
        if not candidates.settings:
            return found, "field: regions that overlap can have none"
        values = run.description.label_values
        fields = Fields(store, candidates.settings, values, self.refine, self.clock)
        measure.fields = fields
        order = spread([case.name for case in run.cases], run.fold_N)
        self.clock.set_aside(SHARE_OF_SCORING)
        base = found.rules.choice
        trial = FieldTrial(fields, measure, candidates, base, order, self.clock).run()
        settings, cases, num_cases = trial.settings, trial.cases, len(run.cases)
        settings_in_words = "1 setting" if len(trial.tried) == 1 else f"{len(trial.tried)} settings"
        said = f"field, {settings_in_words} tried on {len(cases)} of {num_cases} cases"
        said = f"{said} until {trial.why}" if settings else f"{said}: {trial.why}"
        fold_N = run.fold_N[list(cases)]
        if not settings or (few := why_few(fold_N)):
            said = f"{said}; {few}" if settings else said
            return Findings(measure, candidates, found.rules, num_cases, trial), said
        space = candidates.space(measure.structures, settings)
        fresh_N = np.array([index not in trial.picked_on for index in cases])
        field = decide_field(measure.of(cases), space, fold_N, found.rules, run.fold_N, fresh_N)
        found = Findings(measure, candidates, found.rules, num_cases, trial, field)
        return found, f"{said}: {field.reason}"

    def _by_anatomy(self, few: str) -> Decision:
        """Take the rules that training labels allow and that cost nothing on what there is."""
        run = self.run
        if not run.cases:
            return self._record("off", "off: no validation cases", None)
        if self._is_configured():
            reason = f"off: {few}; what was configured stays"
            return self._record("off", reason, None)
        anatomy = self._read_anatomy(run.description.labels)
        candidates = Candidates((), anatomy.rules)
        together = Choice(rules=tuple(range(len(anatomy.rules))))
        search, _, measure, on_cases = self._score(candidates, [IDENTITY, together])
        return search._allow(measure, candidates, anatomy, f"{few}{on_cases}")

    def _allow(
        self, measure: StoreMeasure, candidates: Candidates, anatomy: Anatomy, few: str
    ) -> Decision:
        """Choose among the rules that anatomy allows."""
        verdict = decide_anatomy(measure, len(anatomy.rules))
        found = Findings(measure, candidates, verdict, len(self.run.cases))
        proposed = candidates.in_words(verdict.proposed)
        from_labels = f"proposed from {anatomy}, of which they change none: {proposed}"
        if not anatomy.rules:
            unread = anatomy.num_cases < anatomy.num_all
            why = "were all there was time to read" if unread else "allow no rule"
            reason = f"off: {few}, and {anatomy} {why}"
        elif verdict.choice == IDENTITY:
            reason = f"off: {few}; {from_labels}; they cost something on validation"
        else:
            left = "" if verdict.choice == verdict.proposed else "; the others cost something there"
            reason = (
                f"accepted: {few} to measure a gain; {from_labels}; "
                f"{candidates.in_words(verdict.choice)} cost nothing on validation{left}"
            )
        outcome: Outcome = "off" if verdict.choice == IDENTITY else "accepted"
        return self._record(outcome, reason, found)

    def _is_configured(self) -> bool:
        """Tell whether the model has post-processing that no search gave it."""
        old, decision = self.run.description.postprocessing, read_decision(self.run.folder.model)
        if old == PostprocessingConfig():
            return False
        return decision is None or decision.postprocessing != old or decision.verdict == "off"

    def _record(
        self,
        outcome: Outcome,
        reason: str,
        found: Findings | None,
        chosen: PostprocessingConfig | None = None,
    ) -> Decision:
        """Put together all that is to be known of a decision."""
        run, old = self.run, self.run.description.postprocessing
        evidence: dict[str, Any] = {}
        if found is not None:
            evidence = _evidence(found)
            chosen = chosen or found.candidates.config_of(found.verdict.choice)
            # What only warns stays.
            warn = tuple(rule for rule in old.rules if rule.volume_ml is not None)
            chosen = chosen.model_copy(update={"rules": chosen.rules + warn})
        chosen = chosen or old
        return Decision(
            verdict=outcome,
            reason=reason,
            postprocessing=chosen,
            replaced=None if old in (chosen, PostprocessingConfig()) else old,
            num_cases=len(run.cases),
            num_folds=len(np.unique(run.fold_N)),
            nsd_tolerance_mm=run.evaluation.nsd_tolerance_mm,
            confidence=CONFIDENCE,
            num_resamples=NUM_RESAMPLES,
            versions={"trivox": __version__, "torch": torch.__version__, "numpy": np.__version__},
            seconds=round(self.clock.spent_s, 1),
            **evidence,
        )


def _of_anatomy(
    candidates: Candidates,
    by_gain: Sequence[int],
    rules: Sequence[int],
    allowed: Collection[int],
    anatomy: Anatomy,
) -> str:
    """Say which rules rest on training labels."""
    parts = []
    if free := [candidates.rules[number].label for number in by_gain if number in allowed]:
        parts.append(f" (one piece in each of {anatomy}: {', '.join(sorted(free))})")
    if added := [str(candidates.rules[number]) for number in rules if number not in by_gain]:
        parts.append(
            f"; accepted, as it costs nothing there and changes none of {anatomy}: "
            f"{'; '.join(added)}"
        )
    return "".join(parts)


def _evidence(found: Findings) -> dict[str, Any]:
    """Return what a decision keeps of what was found."""
    verdict, nested, names = found.verdict, found.verdict.nested, found.measure.structures
    (before_NLM,) = found.measure.of(found.cases)([IDENTITY])
    scores, ways = scores_by_way(found)
    evidence: dict[str, Any] = {
        "proposed": found.candidates.in_words(verdict.proposed),
        "of_folds": tuple(found.candidates.in_words(choice) for choice in verdict.of_folds),
        "candidates": candidate_records(found),
        "structures": structure_records(before_NLM, verdict, names),
        "scores": scores,
        "ways": ways,
        "chosen_way": chosen_way(verdict.choice),
        "num_field_cases": 0 if found.trial is None else len(found.trial.cases),
    }
    if nested is not None:
        gains = (nested.gain_M, nested.low_M, nested.high_M)
        for name, values in zip(("gain", "low", "high"), gains, strict=True):
            dice, nsd, hd95 = values.tolist()
            evidence |= {name: dice, f"nsd_{name}": nsd, f"hd95_{name}": hd95}
    return evidence
