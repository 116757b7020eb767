"""What is stored of a decision: in the model's folder, beside what it decided.

model/postprocessing/decision.json    the decision and all numbers that it rests on
model/postprocessing/candidates.csv   a row a candidate
model/postprocessing/decision.png     the same as a picture
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import ModelError
from pipeline.files import atomic_path, write_text
from pipeline.hashes import check_whole, write_noted
from pipeline.manifest.faults import first_fault
from pipeline.model import ModelDescription, read_description, save_description
from pipeline.model.folder import EVIDENCE
from pipeline.outside import read_json
from pipeline.ownership import remove
from pipeline.postprocessing import PostprocessingConfig
from pipeline.selection.plot import draw_decision
from pipeline.selection.records import CandidateRecord, ScoreRecord, StructureRecord
from pipeline.tables import csv_text

DECISION = EVIDENCE / "decision.json"
CANDIDATES = EVIDENCE / "candidates.csv"
PICTURE = EVIDENCE / "decision.png"


class Decision(BaseModel):
    """What was decided on post-processing, and on what grounds.

    Attributes:
        verdict: Accepted: `postprocessing` is used. Refused: the best candidate did not hold on
            other cases. Nothing: there was none. Off: there were too few cases, and anatomy allows
            no rule that costs nothing.
        reason: Why, in words.
        proposed: The best candidate on all cases, in words, whether or not it is used.
        postprocessing: What the model does from now on.
        replaced: What it did before, where that was something else.
        num_cases: Validation cases that it rests on: all that there was time for.
        num_folds: Folds that confirmed the choice, each by cases it was not made on.
        of_folds: Their choices, in words.
        gain: Mean change of Dice by these choices on these cases, with its 95 % interval from `low`
            to `high`.
        nsd_gain: The same of NSD, from `nsd_low` to `nsd_high`; None in earlier versions.
        hd95_gain: Share by which the mean HD95 falls, from `hd95_low` to `hd95_high`.
        num_field_cases: On which a conditional random field was tried.
        structures: What became of each, on these cases too.
        candidates: How each candidate does on the cases that it was tried on.
        scores: On all cases, without clean-up and by each way of it; the choice is made on the same
            cases, so those of what was chosen flatter it.
        ways: What each way of cleaning up does, in words.
        chosen_way: The one that is used.
        nsd_tolerance_mm: Of the NSD.
        confidence: Of the intervals, two-sided.
        num_resamples: Bootstrap resamples behind them.
        versions: Of what computed it.
        seconds: It took.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    verdict: Literal["accepted", "refused", "nothing", "off"]
    reason: str
    proposed: str = "nothing"
    postprocessing: PostprocessingConfig = PostprocessingConfig()
    replaced: PostprocessingConfig | None = None
    num_cases: int
    num_folds: int
    of_folds: tuple[str, ...] = ()
    gain: float | None = None
    low: float | None = None
    high: float | None = None
    nsd_gain: float | None = None
    nsd_low: float | None = None
    nsd_high: float | None = None
    hd95_gain: float | None = None
    hd95_low: float | None = None
    hd95_high: float | None = None
    num_field_cases: int = 0
    structures: tuple[StructureRecord, ...] = ()
    candidates: tuple[CandidateRecord, ...] = ()
    scores: tuple[ScoreRecord, ...] = ()
    ways: Mapping[str, str] = {}
    chosen_way: str = "none"
    nsd_tolerance_mm: float
    confidence: float
    num_resamples: int
    versions: Mapping[str, str]
    seconds: float

    @property
    def cleaned(self) -> dict[str, dict[str, float]]:
        """Mean scores of each structure by the way that is used, by metric; empty if none is."""
        if self.chosen_way == "none":
            return {}
        metrics = ("dice", "nsd", "hd95_mm", "volume_error_percent")
        return {
            row.label: {
                name: getattr(row, name) for name in metrics if getattr(row, name) is not None
            }
            for row in self.scores
            if row.way.split(" (")[0] == self.chosen_way
        }


def store_decision(decision: Decision, description: ModelDescription, folder: Path) -> None:
    """Put a decision into effect in a model folder, and its evidence beside it.

    The description goes last. Killed before, the model is used as it was.
    """
    remove(folder / EVIDENCE)
    write_text(folder / CANDIDATES, _as_csv(decision))
    if decision.candidates:
        with atomic_path(folder / PICTURE) as temporary:
            draw_decision(decision.candidates, decision.structures, decision.reason, temporary)
    write_noted(folder / DECISION, decision.model_dump_json(indent=2))
    described = description.model_copy(update={"postprocessing": decision.postprocessing})
    save_description(described, folder)


def read_decision(folder: Path) -> Decision | None:
    """Return the decision that is stored in a model folder; None if there is none.

    Raises:
        ModelError: If it cannot be read.
    """
    path = folder / DECISION
    if not path.is_file():
        return None
    remedy = "Run `trivox postprocess-search` again."
    check_whole(path, ModelError, remedy)
    content = read_json(path, ModelError, remedy)
    try:
        return Decision.model_validate(content)
    except ValidationError as error:
        fault = first_fault(error, Decision, content)
        raise ModelError(path, f"the decision does not hold: {fault}", remedy) from error


def decision_in_effect(folder: Path) -> Decision | None:
    """Return the decision that a model goes by; None if there is none, or it was not put to use.

    Raises:
        ModelError: If it cannot be read.
    """
    decision = read_decision(folder)
    if decision is None or decision.postprocessing != read_description(folder).postprocessing:
        return None
    return decision


def _as_csv(decision: Decision) -> str:
    columns = list(CandidateRecord.model_fields)
    rows = [candidate.model_dump() for candidate in decision.candidates]
    return csv_text(
        [
            columns,
            *(
                [round(row[k], 6) if isinstance(row[k], float) else row[k] for k in columns]
                for row in rows
            ),
        ]
    )
