import numpy as np
import pytest

from pipeline.selection.statistics import compare, pair_scores

NAN = float("nan")


def flat(num_cases, num_labels, value=0.8, hd95_mm=4.0):
    return np.tile([value, value, hd95_mm], (num_cases, num_labels, 1))


def test_gain_is_the_mean_over_cases_of_the_mean_over_labels():
    before, after = flat(2, 2), flat(2, 2)
    after[0, :, 0] += [0.1, 0.02]
    after[1, 0, 0] -= 0.04
    found = compare(before, after)
    np.testing.assert_allclose(found.gain_M, [(0.06 - 0.02) / 2, 0, 0], atol=1e-12)
    np.testing.assert_allclose(found.gain_LM[:, 0], [0.03, 0.01])
    np.testing.assert_array_equal(found.gain_LM[:, 1:], 0)
    assert (found.num_better, found.num_worse) == (1, 1)
    assert found.falling == ()


def test_a_false_finding_that_goes_away_counts_as_full_agreement():
    """A false finding scores 0, 0 and the grid's diagonal, here 9 mm; none has no score."""
    missed, absent = [[0.0, 0.0, 9.0]], [[NAN] * 3]
    before, after = np.array([missed, absent, absent]), np.array([absent, missed, absent])
    filled_before, filled_after = pair_scores(before, after)
    np.testing.assert_array_equal(filled_before[:, 0, 0], [0, 1, NAN])
    np.testing.assert_array_equal(filled_after[:, 0, 0], [1, 0, NAN])
    np.testing.assert_array_equal(filled_before[:, 0, 2], [9, 0, NAN])
    np.testing.assert_array_equal(filled_after[:, 0, 2], [0, 9, NAN])
    np.testing.assert_array_equal(compare(before[:1], after[:1]).gain_M, [1, 1, 1])
    np.testing.assert_array_equal(compare(before, after).gain_M, [0, 0, 0])


def test_the_interval_is_that_of_resampled_means():
    """Five cases of 0 and five of 1: the count of ones among ten draws is binomial(10, 1/2)."""
    after = flat(10, 1, 0.0)
    after[:5, :, :2] = 1.0
    found = compare(flat(10, 1, 0.0), after)
    # P(count <= 1) = 11/1024 < 2.5 % < P(count <= 2) = 56/1024.
    assert (found.low_M[0], found.high_M[0]) == (0.2, 0.8)


def test_no_change_at_all_is_not_accepted():
    assert not compare(flat(12, 2), flat(12, 2)).is_accepted


@pytest.mark.parametrize(
    ("metric", "little", "enough"), [(0, 0.0009, 0.001), (1, 0.0019, 0.002), (2, -0.19, -0.2)]
)
def test_a_gain_must_matter_in_one_metric(metric, little, enough):
    """Of 4 mm of HD95, 5 % are 0.2 mm."""
    after = flat(12, 1)
    after[..., metric] += little
    assert not compare(flat(12, 1), after).is_accepted
    assert not compare(flat(12, 1), after).helped
    after = flat(12, 1)
    after[..., metric] += enough
    assert compare(flat(12, 1), after).is_accepted
    assert compare(flat(12, 1), after).helped == (0,)


@pytest.mark.parametrize(
    ("metric", "tolerated", "too_much"),
    [(0, -0.0005, -0.0006), (1, -0.0005, -0.0006), (2, 0.04, 0.05)],
)
def test_a_label_that_falls_in_any_score_is_not_made_up_for(metric, tolerated, too_much):
    """Of 4 mm of HD95, 1 % are 0.04 mm."""
    for change, falling in ((tolerated, ()), (too_much, (1,))):
        after = flat(12, 2)
        after[:, 0, :2] += 0.1
        after[:, 1, metric] += change
        found = compare(flat(12, 2), after)
        assert found.falling == falling
        assert found.is_accepted == (not falling)
        assert not found.costs_nothing


def test_hd95_is_a_share_of_its_mean_and_not_a_mean_of_shares():
    """From 1, 1 and 10 mm to 1, 1 and 4: by half of the mean, for both labels alike."""
    before, after = flat(3, 2), flat(3, 2)
    before[..., 2] = [[1], [1], [10]]
    after[..., 2] = [[1], [1], [4]]
    found = compare(before, after)
    assert found.gain_M[2] == pytest.approx(0.5)
    np.testing.assert_allclose(found.gain_LM[:, 2], 0.5)


def test_hd95_that_rises_from_nothing_falls_by_all_of_it():
    found = compare(flat(12, 1, hd95_mm=0.0), flat(12, 1, hd95_mm=3.0))
    assert found.gain_M[2] == -1
    assert found.falling == (0,)
    assert compare(flat(12, 1, hd95_mm=0.0), flat(12, 1, hd95_mm=0.0)).costs_nothing


def test_what_lies_behind_the_metrics_is_not_judged():
    before, after = (np.concatenate([flat(12, 1), np.zeros((12, 1, 1))], axis=-1) for _ in "ab")
    after[..., 3] = 50
    assert compare(before, after).costs_nothing


def test_better_on_average_by_chance_is_not_accepted():
    after = flat(12, 1)
    after[:, 0, 0] += [0.15, *[-0.005] * 11]
    found = compare(flat(12, 1), after)
    assert found.gain_M[0] > 0.001
    assert found.low_M[0] < 0
    assert not found.is_accepted


def test_scores_that_are_never_defined_are_accepted_neither_way():
    nothing = np.full((12, 2, 3), NAN)
    found = compare(nothing, nothing)
    np.testing.assert_array_equal(found.gain_M, 0)
    assert (found.falling, found.is_accepted) == ((), False)
