"""Two candidates compared case by case: means, paired bootstrap intervals, and what is accepted.

A candidate is accepted over another if, over the cases that they are judged on,

- it gains what matters: the mean Dice rises by 0.001, or the mean NSD by 0.002, or the mean HD95
  falls by 5 % (over cases the mean of each case's labels), and the paired bootstrap of that gain
  over cases is not negative at the lower end of its two-sided 95 % interval,
- no label's mean Dice or mean NSD falls by more than 0.0005, nor does its mean HD95 rise by more
  than 1 %.

Of a candidate that concerns one label, as a rule does, that label must gain as much by itself.

A label that is absent from both masks of a case has no score. Where only one of the compared masks
makes a false finding of it, the other agrees wholly with the reference: its Dice and NSD count as 1
there, its HD95 as 0 mm. Where a mask is empty and the reference is not, or the other way round, the
HD95 is the diagonal of the grid, as `pipeline.evaluation` says.

All changes are positive where the candidate is better. Those of HD95 are shares of the mean HD95 of
the one that is to be beaten; of the other's, if that is zero.

Axes: N = cases, L = structures (labels or regions), M = Dice, NSD, HD95 in mm; scores may hold more
behind these, which nothing is judged by; R = resamples.

Source:
    Percentile intervals over resampled cases: Efron and Tibshirani, An Introduction to the
    Bootstrap, 1993, chapter 13.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float64]

DICE, NSD, HD95 = range(3)
LEAST_GAIN = np.array([0.001, 0.002, 0.05])
"""That matters: of Dice and NSD, and as a share of HD95."""

TOLERATED = np.array([0.0005, 0.0005, 0.01])
"""By which a label may be worse."""

NUM_RESAMPLES = 5000
CONFIDENCE = 0.95
SEED = 20240229
ROUNDING = 1e-9
"""Differences of means up to this are rounding."""

_AGREES = np.array([1.0, 1.0, 0.0])
_BETTER = np.array([1.0, 1.0, -1.0])


@dataclass(frozen=True)
class Comparison:
    """A candidate against another one, over cases.

    Attributes:
        gain_M: Mean change of its scores against the other's; 0 if no score is defined.
        low_M: Lower ends of the 95 % intervals of `gain_M`.
        high_M: Upper ends.
        gain_LM: Mean change of each structure's scores; NaN where they are never defined.
        low_LM: Lower ends of the 95 % intervals of `gain_LM`, where that matters; else NaN.
        num_better: Cases whose mean Dice rises.
        num_worse: Cases whose mean Dice falls.
    """

    gain_M: Scores
    low_M: Scores
    high_M: Scores
    gain_LM: Scores
    low_LM: Scores
    num_better: int
    num_worse: int

    @property
    def falling(self) -> tuple[int, ...]:
        """Structures that are worse by more than is tolerated."""
        return _rows(self.gain_LM < -TOLERATED - ROUNDING)

    @property
    def helped(self) -> tuple[int, ...]:
        """Structures that would be accepted each by itself."""
        gains_LM = (self.gain_LM >= LEAST_GAIN - ROUNDING) & (self.low_LM >= -ROUNDING)
        return tuple(index for index in _rows(gains_LM) if index not in self.falling)

    @property
    def is_helpful(self) -> bool:
        """Whether some structure is helped, and none falls."""
        return bool(self.helped) and not self.falling

    @property
    def is_accepted(self) -> bool:
        """Whether the candidate is accepted over the other."""
        gains_M = (self.gain_M >= LEAST_GAIN - ROUNDING) & (self.low_M >= -ROUNDING)
        return bool(gains_M.any()) and not self.falling

    @property
    def costs_nothing(self) -> bool:
        """Whether no structure is worse by more than rounding."""
        return not (self.gain_LM < -ROUNDING).any()

    @property
    def worth(self) -> float:
        """What it gains, as a number to rank candidates by: 1 is what just matters."""
        return float((self.gain_M / LEAST_GAIN).sum())

    @property
    def of_each(self) -> Scores:
        """What each structure gains; NaN where it is never defined."""
        return np.asarray((self.gain_LM / LEAST_GAIN).sum(axis=1))


def pair_scores(before_NLM: Scores, after_NLM: Scores) -> tuple[Scores, Scores]:
    """Fill in what only one of two candidates leaves undefined: it agrees that nothing is there."""
    agrees = np.zeros(before_NLM.shape[-1])
    agrees[: len(_AGREES)] = _AGREES
    is_absent = np.isnan(before_NLM) & np.isnan(after_NLM)
    before, after = (
        np.where(np.isnan(scores) & ~is_absent, agrees, scores)
        for scores in (before_NLM, after_NLM)
    )
    return before, after


def compare(before_NLM: Scores, after_NLM: Scores, num_tests: int = 1) -> Comparison:
    """Compare two candidates case by case.

    Args:
        before_NLM: Scores of the one that is to be beaten, `(N, L, M)`.
        after_NLM: Scores of the other on the same cases.
        num_tests: Of which this is one; the intervals are the wider for it, after Bonferroni.
    """
    paired = pair_scores(before_NLM, after_NLM)
    before_NLM, after_NLM = (scores[..., : len(LEAST_GAIN)] for scores in paired)
    # Over cases the mean of each case's structures; and structure by structure.
    case_NM = _changes(mean_of_defined(before_NLM, axis=1), mean_of_defined(after_NLM, axis=1))
    structure_NLM = _changes(before_NLM, after_NLM)
    gain_LM = mean_of_defined(structure_NLM, axis=0)
    matters = gain_LM >= LEAST_GAIN - ROUNDING
    low_LM = np.full(gain_LM.shape, np.nan)
    low_LM[matters] = _interval(structure_NLM[:, matters], num_tests)[0]
    low_M, high_M = _interval(case_NM, num_tests)
    return Comparison(
        gain_M=np.nan_to_num(mean_of_defined(case_NM, axis=0)),
        low_M=np.nan_to_num(low_M),
        high_M=np.nan_to_num(high_M),
        gain_LM=gain_LM,
        low_LM=low_LM,
        num_better=int((case_NM[:, DICE] > ROUNDING).sum()),
        num_worse=int((case_NM[:, DICE] < -ROUNDING).sum()),
    )


def _changes(before: Scores, after: Scores) -> Scores:
    """Return the changes of paired scores, cases first and metrics last; positive is better."""
    changes = (after - before) * _BETTER
    old, new = (mean_of_defined(scores[..., HD95], axis=0) for scores in (before, after))
    scale = np.where(old > ROUNDING, old, new)
    changes[..., HD95] /= np.where(scale > ROUNDING, scale, 1.0)
    return np.asarray(changes)


def _rows(is_so_LM: npt.NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(index) for index in np.flatnonzero(is_so_LM.any(axis=1)))


@lru_cache(maxsize=16)
def _draw_weights(num_cases: int) -> npt.NDArray[np.float64]:
    """How often each case is drawn in each resample."""
    shares = np.full(num_cases, 1 / num_cases)
    drawn = np.random.default_rng(SEED).multinomial(num_cases, shares, size=NUM_RESAMPLES)
    return drawn.astype(np.float64)


def _interval(values_NL: Scores, num_tests: int) -> tuple[Scores, Scores]:
    """Return the ends of the interval of each column's mean; NaN are left out of it."""
    weights_RN = _draw_weights(len(values_NL))
    is_defined = ~np.isnan(values_NL)
    sums_RL = weights_RN @ np.where(is_defined, values_NL, 0.0)
    counts_RL = weights_RN @ is_defined
    means_RL = np.where(counts_RL > 0, sums_RL / np.maximum(counts_RL, 1), np.nan)
    ends = np.full((2, values_NL.shape[1]), np.nan)
    tail = (1 - CONFIDENCE) / 2 / num_tests
    for column in np.flatnonzero(is_defined.any(axis=0)):
        # A resample may hold no case where the structure is defined.
        ends[:, column] = np.nanquantile(means_RL[:, column], [tail, 1 - tail])
    return ends[0], ends[1]


def mean_of_defined(values: Scores, axis: int) -> Scores:
    """Return the mean of what is defined; NaN where nothing is."""
    counts = (~np.isnan(values)).sum(axis=axis)
    sums = np.nansum(values, axis=axis)
    return np.asarray(np.where(counts > 0, sums / np.maximum(counts, 1), np.nan))
