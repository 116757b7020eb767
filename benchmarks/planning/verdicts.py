"""What was to be reached, and whether it was."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.planning.grounds import HIPPOCAMPUS
from benchmarks.planning.hand_made import HAND_MADE
from benchmarks.planning.record import CHOOSE, COMPARE, Content, Scores
from benchmarks.planning.schedule import (
    LONG,
    MAIN,
    MIDDLE,
    PLAN,
    SHORT,
    STARTING,
    Run,
    best_by_hand,
    by_hand,
)

DICE_BEHIND = 0.005
HD95_BEHIND, HD95_BEHIND_MM = 0.1, 0.2
"""What the plan may be behind the best plan made by hand; of HD95, the larger of the two."""

DICE_LOST = 0.003
"""That more minutes may lose."""

HD95_MM, STRAY_MM, STRAY_SHARE, VOLUME_PERCENT = 3.0, 10.0, 0.95, 3.0
"""On large_organ: mean HD95; distance of stray pieces, and in how many cases; mean error."""

FACTOR = 2.0
"""By which the plan of the starting commit is to miss these."""

HIPPOCAMPUS_DICE = (("hippocampus", SHORT, 0.882), ("hippocampus_fold_2", SHORT, 0.884),
                    ("hippocampus", MIDDLE, 0.884))  # fmt: skip

ROUNDING = 1e-9
"""Of shares such as 0.1."""

State = Literal["met", "missed", "not run"]


@dataclass(frozen=True)
class Verdict:
    """Something that was to be reached.

    Attributes:
        what: In words.
        wanted: The bound, in words.
        found: What was found; empty if nothing was.
        state: Whether it is within the bound.
    """

    what: str
    wanted: str
    found: str
    state: State


def verdicts(content: Content) -> list[Verdict]:
    """Return all verdicts that can be given, and those that cannot be given yet."""
    found = []
    for data in HAND_MADE:
        found += compare(content, data, SHORT, by_hand(data))
        if data in MAIN:
            found += compare(content, data, MIDDLE, best_by_hand(data, content))
            found += more_minutes(content, data)
    found += large_organ(content.scores(Run("large_organ", PLAN, MIDDLE).key))
    for minutes in (SHORT, MIDDLE):
        scores = content.scores(Run("large_organ", STARTING, minutes).key)
        found += starting_commit(scores, minutes)
    for data, minutes, least in HIPPOCAMPUS_DICE:
        scores = content.scores(Run(data, PLAN, minutes).key)
        what = f"hippocampus, fold {HIPPOCAMPUS[data]}, {minutes} min: mean Dice"
        found.append(_bound(what, scores and scores.mean("dice"), least=least))
    return found


def compare(content: Content, data: str, minutes: int, by_hand: Sequence[Run]) -> Iterator[Verdict]:
    """Compare the plan with the best one made by hand.

    Which one is best by mean Dice is decided on one half of the test cases, and the two are
    compared on the other half.
    """
    what = f"{data}, {minutes} min: the plan against the best made by hand"
    plan = content.scores(Run(data, PLAN, minutes).key)
    others = {run.plan: content.scores(run.key) for run in by_hand}
    done = {name: scores for name, scores in others.items() if scores is not None}
    if plan is None or not done or len(done) < len(others):
        dice, hd95 = f"at most {DICE_BEHIND:g} behind", "at most 10 % or 0.2 mm behind"
        yield Verdict(f"{what}, Dice", dice, "", "not run")
        yield Verdict(f"{what}, HD95", hd95, "", "not run")
        return
    name = max(done, key=lambda each: done[each].mean("dice", CHOOSE))
    best = done[name]
    ours, theirs = (scores.mean("dice", COMPARE) for scores in (plan, best))
    yield Verdict(
        f"{what} ({name}), Dice",
        f"at least {theirs - DICE_BEHIND:.4f}",
        f"{ours:.4f} against {theirs:.4f}",
        "met" if ours >= theirs - DICE_BEHIND else "missed",
    )
    ours, theirs = (scores.mean("hd95_mm", COMPARE) for scores in (plan, best))
    most = theirs + max(HD95_BEHIND * theirs, HD95_BEHIND_MM)
    yield Verdict(
        f"{what} ({name}), HD95",
        f"at most {most:.2f} mm",
        f"{ours:.2f} mm against {theirs:.2f} mm",
        "met" if ours <= most else "missed",
    )


def more_minutes(content: Content, data: str) -> Iterator[Verdict]:
    """Compare the plan for some minutes with those for fewer."""
    by_minutes = {m: content.scores(Run(data, PLAN, m).key) for m in (SHORT, MIDDLE, LONG)}
    dice = {m: scores.mean("dice") for m, scores in by_minutes.items() if scores is not None}
    for minutes in (MIDDLE, LONG):
        what = f"{data}: the plan for {minutes} min against those for fewer, Dice"
        fewer = [m for m in by_minutes if m < minutes]
        if minutes not in dice or not all(m in dice for m in fewer):
            yield Verdict(what, f"at most {DICE_LOST:g} lost", "", "not run")
            continue
        best = max(dice[m] for m in fewer)
        yield Verdict(
            what,
            f"at least {best - DICE_LOST:.4f}",
            f"{dice[minutes]:.4f} against {best:.4f}",
            "met" if dice[minutes] >= best - DICE_LOST else "missed",
        )


def large_organ(scores: Scores | None) -> Iterator[Verdict]:
    """Hold the plan for 15 minutes to what a large organ asks for."""
    what = f"large_organ, {MIDDLE} min, the plan"
    hd95, within, error = _figures(scores)
    yield _bound(f"{what}: mean HD95, mm", hd95, most=HD95_MM)
    cases = f"{what}: share of cases without a stray piece beyond {STRAY_MM:g} mm"
    yield _bound(cases, within, least=STRAY_SHARE)
    yield _bound(f"{what}: size of the mean volume error, %", error, most=VOLUME_PERCENT)


def starting_commit(scores: Scores | None, minutes: int) -> Iterator[Verdict]:
    """Tell whether the phantom is hard enough for the plan of the starting commit."""
    what = f"large_organ, {minutes} min, the plan of the starting commit"
    hd95, within, error = _figures(scores)
    yield _bound(f"{what}: mean HD95, mm (twice the bound)", hd95, least=FACTOR * HD95_MM)
    beyond = None if within is None else 1 - within
    cases = f"{what}: share of cases with a stray piece beyond {STRAY_MM:g} mm (twice the bound)"
    yield _bound(cases, beyond, least=FACTOR * (1 - STRAY_SHARE))
    volume = f"{what}: size of the mean volume error, % (twice the bound)"
    yield _bound(volume, error, least=FACTOR * VOLUME_PERCENT)


def _figures(scores: Scores | None) -> tuple[float | None, float | None, float | None]:
    if scores is None:
        return None, None, None
    error = abs(scores.mean("volume_error_percent"))
    return scores.mean("hd95_mm"), scores.share_within(STRAY_MM), error


def _bound(
    what: str, value: float | None, *, least: float | None = None, most: float | None = None
) -> Verdict:
    wanted = f"at least {least:.3g}" if least is not None else f"at most {most:.3g}"
    if value is None:
        return Verdict(what, wanted, "", "not run")
    is_met = (least is None or value >= least - ROUNDING) and (most is None or value <= most)
    return Verdict(what, wanted, f"{value:.4g}", "met" if is_met else "missed")
