"""Which runs there are, the most telling ones first."""

from dataclasses import dataclass

from benchmarks.planning.hand_made import HAND_MADE
from benchmarks.planning.record import CHOOSE, Content

PLAN, STARTING = "plan", "starting commit"
"""Names of plans that nobody made by hand: those of `trivox plan`, now and at the start."""

SHORT, MIDDLE, LONG = 5, 15, 60
"""Minutes."""

NUM_BEST = 3
MAIN = ("large_organ", "hippocampus")
"""Data sets that are trained on for longer, too."""


@dataclass(frozen=True)
class Run:
    """A training of a plan and the scores of its model on the test cases.

    Attributes:
        data: Name of the data set.
        plan: Name of the plan.
        minutes: To train for.
    """

    data: str
    plan: str
    minutes: int

    @property
    def key(self) -> str:
        """Its name in the record."""
        return f"{self.data}/{self.plan}/{self.minutes}"


def schedule(content: Content) -> list[Run]:
    """Return all runs that can be named by now, in order."""
    main, others = MAIN, [data for data in HAND_MADE if data not in MAIN]
    return [
        Run("large_organ", STARTING, SHORT),
        Run("large_organ", PLAN, SHORT),
        *by_hand("large_organ"),
        Run("hippocampus", PLAN, SHORT),
        Run("hippocampus_fold_2", PLAN, SHORT),
        *(Run(data, PLAN, MIDDLE) for data in main),
        *by_hand("hippocampus"),
        *(run for data in others for run in (Run(data, PLAN, SHORT), *by_hand(data))),
        Run("large_organ", STARTING, MIDDLE),
        *(run for data in main for run in best_by_hand(data, content)),
        *(Run(data, PLAN, LONG) for data in main),
    ]


def by_hand(data: str) -> list[Run]:
    """Return the short runs of the plans made by hand."""
    return [Run(data, plan.name, SHORT) for plan in HAND_MADE[data]]


def best_by_hand(data: str, content: Content) -> list[Run]:
    """Return the longer runs of the best plans made by hand; none until all short ones are done."""
    dice = {}
    for run in by_hand(data):
        scores = content.scores(run.key)
        if scores is None:
            return []
        dice[run.plan] = scores.mean("dice", CHOOSE)
    best = sorted(dice, key=lambda plan: -dice[plan])[:NUM_BEST]
    return [Run(data, plan, MIDDLE) for plan in best]


def num_unnamed(content: Content) -> int:
    """Return how many runs cannot be named yet."""
    return sum(NUM_BEST - len(best_by_hand(data, content)) for data in MAIN)
