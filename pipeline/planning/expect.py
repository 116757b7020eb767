"""What is expected of a candidate within the minutes: how much Dice it loses, and by what.

Three causes are added up. They are estimates to choose by, not predictions of a score: what all
candidates lose alike, such as by labels that people draw differently, is left out.

- Resolution: what the labels themselves lose on the way to the spacing and back, measured on the
  data.
- Sight: how much of what surrounds a structure a patch does not see. Where only place tells an
  organ from what looks like it, a network that sees little finds pieces far away.
- Practice: steps and passes over the data that the minutes do not hold.

The constants are fitted to the hand-made plans of benchmarks/planning.md.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.planning.search import Candidate
from pipeline.planning.survey import CloseLook, Survey

RESOLUTION = 1.0
"""Of what labels lose on the way to a grid and back, what a network loses."""

SIGHT = 0.12
"""Lost where nothing around a structure is seen."""

SURROUNDINGS = 1.5
"""Edge of the patch over the extent of a structure, from which enough around it is seen."""

LEAST_SURROUNDINGS_MM = 32.0
"""What of a small structure's surroundings tells where it lies: hippocampus is learnt as well from
patches of 32 x 48 x 32 mm as from all that there is."""

PRACTICE = 0.4
"""Lost less and less with the root of the number of steps."""

FIRST_STEPS = 20.0
"""In which next to nothing is learnt. What is lost by them falls with the square of all steps."""

NARROW = {8: 0.01, 32: -0.003}
"""Lost by networks of few features at the finest level, and gained by those of many."""


@dataclass(frozen=True)
class Prospect:
    """What is expected of a candidate.

    Attributes:
        candidate: Of which.
        seconds: Of a step.
        steps: That the minutes hold.
        passes: Times that these see the whole of every case.
        resolution: Dice lost by the spacing, 0 to 1.
        sight: By what a patch does not see.
        practice: By too few steps.
        seen: Share of a structure with its surroundings that a patch sees, on the mean over them.
    """

    candidate: Candidate
    seconds: float
    steps: int
    passes: float
    resolution: float
    sight: float
    practice: float
    seen: float

    @property
    def loss(self) -> float:
        """Dice lost, all in all."""
        return self.resolution + self.sight + self.practice


@dataclass(frozen=True)
class Considered:
    """A candidate, and why it was not chosen; the reason is empty for the one that was."""

    prospect: Prospect
    reason: str


def expect(
    candidate: Candidate, survey: Survey, look: CloseLook, seconds: float, minutes: float
) -> Prospect:
    """Return what is expected of a candidate.

    Args:
        candidate: Of which.
        survey: Of the training cases.
        look: At some of their labels.
        seconds: Of a step.
        minutes: To train for.
    """
    steps = max(1, int(60 * minutes / seconds))
    passes = steps * candidate.batch_size * candidate.patch_share / survey.fingerprint.num_cases
    (dice,) = (one.dice for one in look.accuracies if one.spacing_mm == candidate.spacing_mm)
    seen = share_seen(candidate, survey, look)
    return Prospect(
        candidate=candidate,
        seconds=seconds,
        steps=steps,
        passes=passes,
        resolution=RESOLUTION * (1 - dice),
        sight=SIGHT * (1 - seen),
        practice=expect_practice(steps, candidate, len(look.extents_mm)),
        seen=seen,
    )


def expect_practice(steps: int, candidate: Candidate, num_labels: int) -> float:
    """Return the Dice that is lost since a candidate is trained for so few steps.

    Patches are placed on each label as often, so that each of many gets fewer.
    """
    worth = steps * (candidate.batch_size / 2 / max(1, num_labels)) ** 0.5
    of_width = NARROW.get(candidate.features[0], 0.0)
    return float(PRACTICE / worth**0.5 + (FIRST_STEPS / worth) ** 2 + of_width)


def share_seen(candidate: Candidate, survey: Survey, look: CloseLook) -> float:
    """Return the share of a structure and its surroundings that a patch sees, 0 to 1.

    The mean over structures. Surroundings that the volume does not have are not wanted.
    """
    edges = np.array(candidate.edges_mm)
    shares = []
    for extent_mm in look.extents_mm.values():
        wanted = np.maximum(SURROUNDINGS * np.array(extent_mm), LEAST_SURROUNDINGS_MM)
        wanted = np.minimum(wanted, survey.size_mm)
        shares.append(float(np.prod(np.minimum(edges / wanted, 1))))
    return float(np.mean(shares)) if shares else 1.0
