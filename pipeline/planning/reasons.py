"""Why each of the candidates that come nearest was not chosen, in words and as a table."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from pipeline.planning.expect import RESOLUTION, Considered, Prospect
from pipeline.planning.search import Candidate
from pipeline.planning.trial_ground import TrialResult

MOST_SPACINGS = 7
"""Of which the best candidate is shown."""

HEADINGS = (
    "spacing mm", "patch", "batch", "features", "steps", "passes", "volume", "sees", "loses", ""
)  # fmt: skip


def consider(
    best: Prospect,
    prospects: Sequence[Prospect],
    trials: Sequence[TrialResult],
    lack_of: Callable[[Candidate], str],
) -> tuple[Considered, ...]:
    """Return the best candidate of each spacing, and those that differ from the best in one thing.

    Args:
        best: What was chosen; it comes first.
        prospects: Of all candidates, the best first.
        trials: That were held, the best first.
        lack_of: Says why a candidate does not fit in memory; empty if it does.
    """
    tried = {trial.prospect.candidate: trial for trial in trials}
    rows = [Considered(best, "")]
    for prospect in _shown(best, prospects):
        reason = lack_of(prospect.candidate)
        if not reason and prospect.candidate in tried:
            reason = _of_trial(tried[prospect.candidate], trials[0])
        rows.append(Considered(prospect, reason or _worst_cause(prospect, best)))
    return tuple(rows)


def table(considered: Sequence[Considered]) -> list[str]:
    """Return the lines of a table of candidates, in aligned columns."""
    rows = [HEADINGS, *(_cells(row) for row in considered)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _shown(best: Prospect, prospects: Sequence[Prospect]) -> Iterator[Prospect]:
    """Yield the best of each other spacing, then neighbours of the best at its own, best first."""
    of_spacing: dict[object, Prospect] = {}
    for prospect in prospects:
        of_spacing.setdefault(prospect.candidate.spacing_mm, prospect)
    of_others = (one for one in of_spacing.values() if one.candidate != best.candidate)
    others = list(islice(of_others, MOST_SPACINGS))
    for name in ("patch", "batch", "width"):
        near = (one for one in prospects if _differing(one, best) == {name} and one not in others)
        others += [one for one in (next(near, None),) if one is not None]
    yield from sorted(others, key=lambda one: one.loss)


def _differing(one: Prospect, other: Prospect) -> set[str]:
    """Name what two candidates differ in, without what follows from the rest."""
    mine, theirs = (
        {
            "spacing": each.candidate.spacing_mm,
            "patch": each.candidate.shape,
            "batch": each.candidate.batch_size,
            "width": each.candidate.features[0],
        }
        for each in (one, other)
    )
    return {name for name in mine if mine[name] != theirs[name]}


def _of_trial(trial: TrialResult, best: TrialResult) -> str:
    if not trial.steps:
        return "its trial failed"
    return (
        f"tried: Dice {trial.dice:.3f}, HD95 {trial.hd95_mm:.1f} mm after {trial.steps} steps, "
        f"against {best.dice:.3f}, {best.hd95_mm:.1f} mm after {best.steps}"
    )


def _worst_cause(prospect: Prospect, best: Prospect) -> str:
    """Name the cause by which a candidate is expected to lose most beyond the best one."""
    causes = {
        f"labels lose {prospect.resolution / RESOLUTION:.1%} at this spacing": (
            prospect.resolution - best.resolution
        ),
        f"a patch sees {prospect.seen:.0%} of a structure and what surrounds it": (
            prospect.sight - best.sight
        ),
        f"{prospect.steps} steps and {prospect.passes:.3g} passes are few": (
            prospect.practice - best.practice
        ),
    }
    worst = max(causes, key=lambda cause: causes[cause])
    # Only a trial chooses what is expected to lose more.
    return (
        worst if causes[worst] > 0 else "not tried; much like what was, and lost to what is chosen"
    )


def _cells(row: Considered) -> tuple[str, ...]:
    prospect, candidate = row.prospect, row.prospect.candidate
    return (
        " x ".join(f"{value:.3g}" for value in candidate.spacing_mm),
        " x ".join(map(str, candidate.shape.patch_size)),
        str(candidate.batch_size),
        "-".join(map(str, candidate.features)),
        str(prospect.steps),
        f"{prospect.passes:.3g}",
        f"{candidate.patch_share:.0%}",
        f"{prospect.seen:.0%}",
        f"{prospect.loss:.3f}",
        row.reason or "chosen",
    )
