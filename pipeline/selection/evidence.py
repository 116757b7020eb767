"""What is stored of a decision: in the model's folder, as tables and as a picture.

model/postprocessing/decision.json    the decision and all numbers that it rests on
model/postprocessing/candidates.csv   a row a candidate
model/postprocessing/decision.png     the same as a picture
"""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import ModelError
from pipeline.manifest.faults import first_fault
from pipeline.model import ModelDescription, read_description, save_description
from pipeline.model.folder import EVIDENCE
from pipeline.postprocessing import PostprocessingConfig
from pipeline.selection.records import CandidateRecord, ScoreRecord, StructureRecord
from pipeline.system.documents import read_json
from pipeline.system.files import atomic_path, csv_text, write_text
from pipeline.system.hashes import check_whole, write_noted
from pipeline.system.ownership import remove

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_CANDIDATES = 40
MOST_STRUCTURES = 40
"""Rows that are shown: those that change most."""

SUMS = {"proposed": "all that is proposed", "accepted": "what is accepted of it"}
"""Names of rows that are several candidates together."""

_ROW_INCHES = 0.22
_FEWEST_ROWS = 6
_PASSES, _FAILS = "tab:green", "tab:gray"


def draw_decision(
    candidates: Sequence[CandidateRecord],
    structures: Sequence[StructureRecord],
    reason: str,
    path: Path,
) -> None:
    """Draw the evidence of a decision as PNG.

    Args:
        candidates: Rows of the left panel; settings, then rules.
        structures: Rows of the right panel.
        reason: Stands above them.
        path: To write to.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    candidates = _that_change_most(candidates)
    structures = sorted(
        structures,
        key=lambda s: -abs(s.dice_after - s.dice_before) - abs(s.nsd_after - s.nsd_before),
    )[:MOST_STRUCTURES]
    rows = max(len(candidates), 2 * len(structures), _FEWEST_ROWS)
    # A "$" in a name begins no formula.
    with rc_context({"text.parse_math": False}):
        figure = Figure(figsize=(13, 1.8 + _ROW_INCHES * rows), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[3, 2])
        _draw_candidates(left, candidates)
        _draw_structures(right, structures)
        figure.suptitle("\n".join(textwrap.wrap(reason, 130)), fontsize=10)
        figure.savefig(path, format="png", dpi=110)


def _that_change_most(candidates: Sequence[CandidateRecord]) -> list[CandidateRecord]:
    if len(candidates) <= MOST_CANDIDATES:
        return list(candidates)
    ranked = sorted(candidates, key=lambda c: (c.kind not in SUMS, -abs(c.gain)))
    shown = {id(candidate) for candidate in ranked[:MOST_CANDIDATES]}
    return [candidate for candidate in candidates if id(candidate) in shown]


def _draw_candidates(axes: "Axes", candidates: Sequence[CandidateRecord]) -> None:
    for row, candidate in enumerate(candidates):
        color = _PASSES if candidate.passes else _FAILS
        marker = "D" if candidate.kind in SUMS else "o"
        axes.plot([candidate.low, candidate.high], [row, row], color=color, linewidth=2)
        axes.plot(candidate.gain, row, marker, color=color, markersize=5)
    axes.axvline(0, color="black", linewidth=0.8)
    names = [f"{SUMS.get(c.kind, textwrap.shorten(c.name, 60))}{_gain_of(c)}" for c in candidates]
    axes.set_yticks(range(len(candidates)), names, fontsize=8)
    axes.set_ylim(len(candidates) - 0.5, -0.5)
    # A candidate that ruins everything would squeeze all others into a line.
    near = sorted(abs(end) for c in candidates for end in (c.low, c.high))
    sums = [abs(end) for c in candidates if c.kind in SUMS for end in (c.low, c.high)]
    reach = 1.1 * max(near[len(near) * 3 // 4], *sums, 1e-4)
    axes.set_xlim(-reach, reach)
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel("change of the mean Dice, with 95 % interval (cut at the border)")
    axes.set_title("Candidates (green: a gain that matters, and no label falls)", fontsize=9)
    axes.grid(axis="x", alpha=0.3)


def _gain_of(candidate: CandidateRecord) -> str:
    return "" if candidate.hd95_gain is None else f", HD95 {-candidate.hd95_gain:+.0%}"


def _hd95(structure: StructureRecord) -> str:
    before, after = structure.hd95_before, structure.hd95_after
    return "" if before is None or after is None else f"\nHD95 {before:.1f} to {after:.1f} mm"


def _draw_structures(axes: "Axes", structures: Sequence[StructureRecord]) -> None:
    for row, structure in enumerate(structures):
        pairs = (
            (row - 0.15, structure.dice_before, structure.dice_after, "tab:blue"),
            (row + 0.15, structure.nsd_before, structure.nsd_after, "tab:orange"),
        )
        for height, before, after, color in pairs:
            axes.plot([before, after], [height, height], color=color, linewidth=1.5)
            axes.plot(before, height, "o", color=color, markerfacecolor="white", markersize=6)
            axes.plot(after, height, "o", color=color, markersize=4)
            change = f"  {after - before:+.4f}"
            axes.text(max(before, after), height, change, va="center", fontsize=7)
    names = [f"{textwrap.shorten(s.name, 30)} (n {s.num_cases}){_hd95(s)}" for s in structures]
    axes.set_yticks(range(len(structures)), names, fontsize=8)
    axes.set_ylim(max(len(structures), _FEWEST_ROWS) - 0.5, -0.5)
    axes.margins(x=0.2)
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel("mean Dice (blue) and NSD (orange)")
    axes.set_title("Before (ring), after (dot), by choices of other folds", fontsize=9)
    axes.grid(axis="x", alpha=0.3)


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
