"""`search_postprocessing()`: from a finished run to the post-processing of its model."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from pipeline import __version__
from pipeline.inference import NotEnoughMemory
from pipeline.lock import RUN_LOCK, only_run
from pipeline.postprocessing import PostprocessingConfig
from pipeline.postprocessing.crf import CrfConfig
from pipeline.selection.candidates import Candidates, make_candidates, setting_in_words
from pipeline.selection.changes import Labels
from pipeline.selection.choice import IDENTITY
from pipeline.selection.decision import Verdict, decide, why_off
from pipeline.selection.evidence import Decision, store_decision
from pipeline.selection.finished_run import FinishedRun, open_run
from pipeline.selection.out_of_fold import Refine, segment_cases
from pipeline.selection.records import candidate_records, structure_records
from pipeline.selection.scoring import StoreMeasure
from pipeline.selection.statistics import CONFIDENCE, NUM_RESAMPLES
from pipeline.transforms import Uncertain

logger = logging.getLogger(__name__)


def search_postprocessing(
    model: Path,
    overrides: Sequence[str] = (),
    device: torch.device | None = None,
    refine: Refine | None = None,
) -> Decision:
    """Choose a model's post-processing on cases that it never saw; store it with the evidence.

    Stopped at any time, the same call goes on where it was, and the model is as it was.

    Args:
        model: The folder `model` of a finished run.
        overrides: Words such as `data.root=...`, if the data lies elsewhere by now.
        device: To compute on; the CPU by default.
        refine: The conditional random field; another one only in tests.

    Raises:
        PipelineError: If the run, its members or its data cannot be read.
    """
    run = open_run(model, overrides)
    if note := run.note():
        logger.warning("%s: %s", model, note)
    again = "Wait for it or stop it, and run the same command again."
    with only_run(run.folder.path, remedy=again, lock=RUN_LOCK):
        decision = _decide(run, refine, device or torch.device("cpu"))
    logger.info("post-processing of %s: %s", model, decision.reason)
    return decision


def _decide(run: FinishedRun, refine: Refine | None, device: torch.device) -> Decision:
    """Choose, and store the decision."""
    started = time.monotonic()
    candidates = make_candidates(run.description)
    if reason := why_off(run.fold_N):
        decision = _record(run, Verdict(IDENTITY, IDENTITY, reason), candidates, None, started)
    else:
        refine = refine or _random_field(device)
        store = segment_cases(run, candidates.settings, refine, device)
        measure = StoreMeasure(store, run.description, candidates, run.evaluation)
        verdict = decide(measure, candidates.space(measure.structures), run.fold_N)
        decision = _record(run, verdict, candidates, measure, started)
    store_decision(decision, run.description, run.folder.model)
    run.remove_selection()
    return decision


def _random_field(device: torch.device) -> Refine:
    """Return the conditional random field that segmenting applies."""
    from pipeline.postprocessing.crf import Crf

    def refine(
        image_CIJK: npt.NDArray[np.float32],
        labels_IJK: Labels,
        uncertain: Uncertain,
        label_values: Sequence[int],
        spacing_mm: tuple[float, float, float],
        config: CrfConfig,
    ) -> Labels:
        crf = Crf(config, device=device)
        try:
            return crf.refine_uncertain(image_CIJK, labels_IJK, uncertain, label_values, spacing_mm)
        except NotEnoughMemory as error:
            # A study that is segmented keeps its labels then, too.
            logger.warning(
                "%s changes nothing in a case: it needs %.1f GB of memory",
                setting_in_words(config),
                error.needed_bytes / 1e9,
            )
            return labels_IJK

    return refine


def _record(
    run: FinishedRun,
    verdict: Verdict,
    candidates: Candidates,
    measure: StoreMeasure | None,
    started: float,
) -> Decision:
    """Put together all that is to be known of a decision."""
    old, nested = run.description.postprocessing, verdict.nested
    chosen = _config_of(verdict, candidates, old, is_off=measure is None)
    evidence: dict[str, Any] = {}
    if measure is not None:
        if verdict.choice != IDENTITY:
            largest = measure.largest_change(verdict.choice)
            chosen = chosen.model_copy(update={"largest_change": largest})
        (before_NLM,) = measure([IDENTITY])
        names = measure.structures
        evidence = {
            "candidates": candidate_records(candidates, verdict, measure, names),
            "structures": structure_records(before_NLM, verdict, names),
        }
    if nested is not None:
        evidence |= {"gain": nested.gain, "low": nested.low, "high": nested.high}
    return Decision(
        verdict=_verdict(verdict, is_off=measure is None),
        reason=verdict.reason,
        proposed=candidates.in_words(verdict.proposed),
        postprocessing=chosen,
        replaced=None if old in (chosen, PostprocessingConfig()) else old,
        num_cases=len(run.cases),
        num_folds=len(np.unique(run.fold_N)),
        of_folds=tuple(candidates.in_words(choice) for choice in verdict.of_folds),
        nsd_tolerance_mm=run.evaluation.nsd_tolerance_mm,
        confidence=CONFIDENCE,
        num_resamples=NUM_RESAMPLES,
        versions={"trivox": __version__, "torch": torch.__version__, "numpy": np.__version__},
        seconds=round(time.monotonic() - started, 1),
        **evidence,
    )


def _config_of(
    verdict: Verdict, candidates: Candidates, old: PostprocessingConfig, *, is_off: bool
) -> PostprocessingConfig:
    """Return what the model does from now on; what only warns stays, and all if nobody chose."""
    if is_off:
        return old
    chosen = candidates.config_of(verdict.choice)
    warn = tuple(rule for rule in old.rules if rule.volume_ml is not None)
    return chosen.model_copy(update={"rules": chosen.rules + warn})


def _verdict(verdict: Verdict, *, is_off: bool) -> Literal["accepted", "refused", "nothing", "off"]:
    if is_off:
        return "off"
    if verdict.nested is None:
        return "nothing"
    return "accepted" if verdict.choice != IDENTITY else "refused"
