import numpy as np
import pytest

from pipeline.selection.statistics import compare, pair_scores

NAN = float("nan")


def flat(num_cases, num_labels, value=0.8):
    return np.full((num_cases, num_labels, 2), value)


def test_gain_is_the_mean_over_cases_of_the_mean_over_labels():
    before, after = flat(2, 2), flat(2, 2)
    after[0, :, 0] += [0.1, 0.02]
    after[1, 0, 0] -= 0.04
    found = compare(before, after)
    assert found.gain == pytest.approx((0.06 - 0.02) / 2)
    np.testing.assert_allclose(found.dice_L, [0.03, 0.01])
    np.testing.assert_allclose(found.nsd_L, [0, 0])
    assert (found.num_better, found.num_worse) == (1, 1)
    assert found.falling == ()


def test_a_false_finding_that_goes_away_counts_as_full_agreement():
    before = np.array([[[0.0, 0.0]], [[NAN, NAN]], [[NAN, NAN]]])
    after = np.array([[[NAN, NAN]], [[0.0, 0.0]], [[NAN, NAN]]])
    filled_before, filled_after = pair_scores(before, after)
    np.testing.assert_array_equal(filled_before[:, 0, 0], [0, 1, NAN])
    np.testing.assert_array_equal(filled_after[:, 0, 0], [1, 0, NAN])
    assert compare(before[:1], after[:1]).gain == 1
    assert compare(before, after).gain == 0


def test_the_interval_is_that_of_resampled_means():
    """Five cases of 0 and five of 1: the count of ones among ten draws is binomial(10, 1/2)."""
    after = flat(10, 1, 0.0)
    after[:5] = 1.0
    found = compare(flat(10, 1, 0.0), after)
    # P(count <= 1) = 11/1024 < 2.5 % < P(count <= 2) = 56/1024.
    assert (found.low, found.high) == (0.2, 0.8)


def test_no_change_at_all_is_not_accepted():
    assert not compare(flat(12, 2), flat(12, 2)).is_accepted


@pytest.mark.parametrize("metric", [0, 1])
def test_a_label_that_falls_in_either_score_is_not_made_up_for(metric):
    after = flat(12, 2)
    after[:, 0] += 0.1
    assert compare(flat(12, 2), after).is_accepted
    after[:, 1, metric] -= 0.001
    found = compare(flat(12, 2), after)
    assert found.falling == (1,)
    assert not found.is_accepted


def test_better_on_average_by_chance_is_not_accepted():
    after = flat(12, 1)
    after[:, 0, 0] += [0.15, *[-0.005] * 11]
    found = compare(flat(12, 1), after)
    assert found.gain > 0
    assert found.low < 0
    assert not found.is_accepted


def test_scores_that_are_never_defined_are_accepted_neither_way():
    nothing = np.full((12, 2, 2), NAN)
    found = compare(nothing, nothing)
    assert (found.gain, found.falling, found.is_accepted) == (0, (), False)
