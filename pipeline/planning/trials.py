"""Short trials on the user's own data, where the rules leave doubt between candidates.

Successive halving: all are trained for a short while, the better half for twice as long, until one
is left. Trials are compared at equal counted work, not at equal time, so that a busy machine makes
planning slower and changes nothing else. A short trial favours coarse grids, which are learnt
sooner; so of what a trial loses, what is expected of its few steps is replaced by what is expected
of all that the minutes hold.

The cases that score a trial are training cases that it is not trained on: those that validate the
training later are never looked at.

Source:
    Jamieson and Talwalkar, Non-stochastic best arm identification and hyperparameter optimization,
    AISTATS 2016, arXiv:1502.07943.
"""

import logging
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.manifest import Case, Manifest, Split
from pipeline.planning.compose import Choice
from pipeline.planning.estimate import Pricer
from pipeline.planning.expect import Prospect
from pipeline.planning.search import Candidate
from pipeline.planning.trial_ground import (
    FARTHEST_MM,
    SHARE,
    TRAINING,
    GivenUpError,
    TrialGround,
    TrialResult,
)
from pipeline.system.ownership import make_folder

logger = logging.getLogger(__name__)

DOUBT = 0.01
"""Dice. Candidates that are expected to lose at most this much more than the best are tried."""

MOST_CONTENDERS = 4

APART = 1.9
"""Ratio of the volumes in mm^3 of the voxels or the patches of two contenders, at least."""

FEWEST_STEPS = 100
"""Of a trial: fewer say nothing about what a network will learn."""

LEARNT = 0.6
"""Dice of a trial from which it tells how well a candidate will do; below, how soon it begins."""

MOST_CASES = 24
"""That a trial learns from."""

HELD_OUT = 6
"""Training cases that score it, of at most a quarter."""


@dataclass(frozen=True)
class Trials:
    """All trials of a plan.

    Attributes:
        results: The last of each candidate, the best first; empty if the rules decide.
        note: A sentence on trials that were given up.
    """

    results: tuple[TrialResult, ...] = ()
    note: str = ""


def contenders(prospects: Sequence[Prospect], pricer: Pricer, memory_gb: float) -> list[Prospect]:
    """Return the candidates between which the rules leave doubt, the best first.

    Their voxels or patches differ in volume by a factor of two: how fine the image must be seen,
    and how much of it, is what no rule knows, and nearer neighbours learn alike.

    Args:
        prospects: Of all candidates, the best first.
        pricer: Says what candidates cost.
        memory_gb: To stay within.
    """
    chosen: list[Prospect] = []
    for prospect in prospects:
        if chosen and prospect.loss > chosen[0].loss + DOUBT:
            break
        if any(_are_alike(prospect, one) for one in chosen):
            continue
        if not pricer.lack(prospect.candidate, memory_gb):
            chosen.append(prospect)
    return chosen[:MOST_CONTENDERS]


def _are_alike(one: Prospect, other: Prospect) -> bool:
    for volume_mm3 in ("spacing_mm", "edges_mm"):
        volumes = [math.prod(getattr(each.candidate, volume_mm3)) for each in (one, other)]
        if max(volumes) > APART * min(volumes):
            return False
    return True


def hold_trials(
    doubtful: Sequence[Prospect],
    choice: Choice,
    manifest: Manifest,
    cases: Sequence[Case],
    pricer: Pricer,
    minutes: float,
) -> Trials:
    """Try candidates by successive halving.

    Where the minutes are too few to learn anything in so many trials, fewer are held, of the best;
    of a single candidate, or with too few cases, none. Where a candidate learns too little in its
    trial, or cases take too long to prepare and to score, nothing follows from any.

    What is preprocessed lies beside the plan meanwhile.

    Args:
        doubtful: What is expected of the candidates.
        choice: What holds for all of them.
        manifest: The data set.
        cases: To train on.
        pricer: Says what candidates cost.
        minutes: Of the whole training.
    """
    split, left = hold_out(cases), list(doubtful)
    while (gflops := first_round_gflops(left, pricer, minutes)) is None and left:
        left.pop()
    if not split.validation or gflops is None:
        return Trials()
    out = choice.request.out
    make_folder(out.parent)
    with tempfile.TemporaryDirectory(prefix=f".{out.stem}-trials-", dir=out.parent) as folder:
        ground = TrialGround(choice, manifest, split, pricer, Path(folder), minutes)
        try:
            return Trials(_halve(ground.affordable(left, sum(_rounds(len(left)))), left, gflops))
        except (GivenUpError, PipelineError) as error:
            note = f"trials were given up, so the rules decide: {error}"
            logger.info("%s", note)
            return Trials(note=note)


def _halve(ground: TrialGround, left: Sequence[Prospect], gflops: float) -> tuple[TrialResult, ...]:
    """Hold rounds of trials of twice the work each, until one candidate is left."""
    last: dict[Candidate, TrialResult] = {}
    tried = list(left)
    while len(left) > 1:
        for number, prospect in enumerate(left, start=1):
            steps = int(gflops / ground.pricer.gflops(prospect.candidate))
            logger.info(
                "trying %d of %d: %s, %d steps", number, len(left), prospect.candidate, steps
            )
            try:
                trial = ground.hold(prospect, steps)
                logger.info("Dice %.3f, HD95 %.1f mm", trial.dice, trial.hd95_mm)
            except PipelineError as error:
                # Such as a loss that is no number, or memory that runs out: the others go on.
                logger.warning("this trial failed: %s", error)
                trial = TrialResult(prospect, 0, 0.0, FARTHEST_MM, math.inf)
            last[prospect.candidate] = trial
            if trial.steps and trial.dice < LEARNT:
                raise GivenUpError("too little is learnt so soon to choose by")
        left = sorted(left, key=lambda one: last[one.candidate].loss)[: (len(left) + 1) // 2]
        gflops *= 2
    (best,) = left
    tried.sort(key=lambda one: (one != best, last[one.candidate].loss))
    return tuple(last[one.candidate] for one in tried)


def first_round_gflops(
    doubtful: Sequence[Prospect], pricer: Pricer, minutes: float
) -> float | None:
    """Return the arithmetic of each trial of the first round; None where there is none to hold."""
    shares = sum(number << power for power, number in enumerate(_rounds(len(doubtful))))
    if not shares:
        return None
    # That of the slowest, so that none takes longer.
    speed = min(pricer.gflops(one.candidate) / one.seconds for one in doubtful)
    gflops = SHARE * TRAINING * 60 * minutes * speed / shares
    steps = min(gflops / pricer.gflops(one.candidate) for one in doubtful)
    return gflops if steps >= FEWEST_STEPS else None


def _rounds(number: int) -> list[int]:
    """Return the number of trials in each round."""
    rounds = []
    while number > 1:
        rounds.append(number)
        number = (number + 1) // 2
    return rounds


def hold_out(cases: Sequence[Case]) -> Split:
    """Return training cases for trials and those that score them, of other subjects."""
    subjects = list(dict.fromkeys(case.subject for case in cases))
    scoring = set(subjects[:: max(4, -(-len(subjects) // HELD_OUT))])
    held_out = [case for case in cases if case.subject in scoring][:HELD_OUT]
    others = [case for case in cases if case.subject not in scoring]
    if not others:
        return Split((), ())
    return Split(tuple(others[:: -(-len(others) // MOST_CASES)]), tuple(held_out))
