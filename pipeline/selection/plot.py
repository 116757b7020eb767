"""The evidence as a picture: what each candidate gains, and what each structure becomes."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.selection.records import CandidateRecord, StructureRecord

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
