"""Two candidates compared case by case: means, paired bootstrap intervals, and what is accepted.

A candidate is accepted over another if, over the cases that they are judged on,

- the mean Dice rises (over cases the mean of each case's labels),
- no label's mean Dice and no label's mean NSD falls,
- the paired bootstrap of that rise over cases is not negative at the lower end of its two-sided
  95 % interval.

A label that is absent from both masks of a case has no score. Where only one of the compared masks
makes a false finding of it, the other agrees wholly with the reference and counts as 1 there.

Axes: N = cases, L = structures (labels or regions), M = Dice and NSD, R = resamples.

Source:
    Percentile intervals over resampled cases: Efron and Tibshirani, An Introduction to the
    Bootstrap, 1993, chapter 13.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float64]

NUM_RESAMPLES = 5000
CONFIDENCE = 0.95
SEED = 20240229
ROUNDING = 1e-9
"""Differences of means up to this are rounding."""


@dataclass(frozen=True)
class Comparison:
    """A candidate against another one, over cases.

    Attributes:
        gain: Mean of its Dice minus the other's; 0 if no score is defined.
        low: Lower end of the 95 % interval of `gain`.
        high: Upper end.
        dice_L: Mean change of each structure's Dice; NaN where it is never defined.
        nsd_L: Mean change of each structure's NSD.
        dice_low_L: Lower end of the 95 % interval of `dice_L`, where that rises; else NaN.
        num_better: Cases whose mean Dice rises.
        num_worse: Cases whose mean Dice falls.
    """

    gain: float
    low: float
    high: float
    dice_L: Scores
    nsd_L: Scores
    dice_low_L: Scores
    num_better: int
    num_worse: int

    @property
    def falling(self) -> tuple[int, ...]:
        """Structures whose mean Dice or NSD falls."""
        worst_L = np.fmin(self.dice_L, self.nsd_L)
        return tuple(int(index) for index in np.flatnonzero(worst_L < -ROUNDING))

    @property
    def helped(self) -> tuple[int, ...]:
        """Structures that would be accepted each by itself."""
        is_better = (self.dice_L > ROUNDING) & (self.dice_low_L >= -ROUNDING)
        return tuple(int(i) for i in np.flatnonzero(is_better) if i not in self.falling)

    @property
    def is_accepted(self) -> bool:
        """Whether the candidate is accepted over the other."""
        return self.gain > ROUNDING and self.low >= -ROUNDING and not self.falling


def pair_scores(before_NLM: Scores, after_NLM: Scores) -> tuple[Scores, Scores]:
    """Fill in what only one of two candidates leaves undefined: it agrees that nothing is there."""
    is_absent = np.isnan(before_NLM) & np.isnan(after_NLM)
    before, after = (
        np.where(np.isnan(scores) & ~is_absent, 1.0, scores) for scores in (before_NLM, after_NLM)
    )
    return before, after


def compare(before_NLM: Scores, after_NLM: Scores, num_tests: int = 1) -> Comparison:
    """Compare two candidates case by case.

    Args:
        before_NLM: Scores of the one that is to be beaten, `(N, L, 2)`.
        after_NLM: Scores of the other on the same cases.
        num_tests: Of which this is one; the interval is the wider for it, after Bonferroni.
    """
    before_NLM, after_NLM = pair_scores(before_NLM, after_NLM)
    change_NLM = after_NLM - before_NLM
    dice_NL = change_NLM[..., 0]
    case_N1 = _mean(dice_NL, axis=1)[:, None]
    gain = np.nan_to_num(_mean(case_N1, axis=0))
    low, high = np.nan_to_num(_interval(case_N1, num_tests))
    dice_L = _mean(dice_NL, axis=0)
    rises = dice_L > ROUNDING
    dice_low_L = np.full(len(dice_L), np.nan)
    dice_low_L[rises] = _interval(dice_NL[:, rises], num_tests)[0]
    return Comparison(
        gain=float(gain[0]),
        low=float(low[0]),
        high=float(high[0]),
        dice_L=dice_L,
        nsd_L=_mean(change_NLM[..., 1], axis=0),
        dice_low_L=dice_low_L,
        num_better=int((case_N1 > ROUNDING).sum()),
        num_worse=int((case_N1 < -ROUNDING).sum()),
    )


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


def _mean(values: Scores, axis: int) -> Scores:
    """Return the mean of what is defined; NaN where nothing is."""
    counts = (~np.isnan(values)).sum(axis=axis)
    sums = np.nansum(values, axis=axis)
    return np.asarray(np.where(counts > 0, sums / np.maximum(counts, 1), np.nan))
