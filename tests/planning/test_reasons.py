from dataclasses import replace

import pytest

from pipeline.planning.expect import expect
from pipeline.planning.reasons import consider, table
from pipeline.planning.search import list_candidates, list_spacings
from pipeline.planning.trial_ground import TrialResult


@pytest.fixture
def prospects(make_survey, make_look):
    survey = make_survey((0.6, 0.6, 0.6), (190, 145, 88))
    look = make_look(survey, lost_per_mm=0.02)
    found = (
        expect(one, survey, look, 1e-6 * one.batch_size * one.shape.num_voxels, 10.0)
        for one in list_candidates(survey, "cpu")
    )
    return sorted(found, key=lambda prospect: prospect.loss)


def free(_):
    return ""


def test_the_best_comes_first_and_each_spacing_is_there(prospects, make_survey):
    best = prospects[0]
    rows = consider(best, prospects, (), free)
    assert (rows[0].prospect, rows[0].reason) == (best, "")
    assert all(row.reason for row in rows[1:])
    spacings = {row.prospect.candidate.spacing_mm for row in rows}
    survey = make_survey((0.6, 0.6, 0.6), (190, 145, 88))
    assert len(spacings) == min(8, len(list_spacings(survey)))
    # And what differs from the best in its patch, its batch and its width alone.
    own = [
        row.prospect.candidate
        for row in rows
        if row.prospect.candidate.spacing_mm == best.candidate.spacing_mm
    ]
    assert len({one.shape for one in own}) == 2
    assert len({one.batch_size for one in own}) == 2
    assert len({one.features[0] for one in own}) == 2


def test_each_reason_is_the_cause_that_costs_most(prospects):
    best = prospects[0]
    rows = consider(best, prospects, (), free)
    by_spacing = sorted(rows, key=lambda row: row.prospect.candidate.spacing_mm)
    # Labels that lose 2 % of Dice by each mm beyond 0.6.
    coarsest = by_spacing[-1]
    lost = 0.02 * (coarsest.prospect.candidate.spacing_mm[0] - 0.6)
    assert coarsest.reason == f"labels lose {lost:.1%} at this spacing"
    finest = by_spacing[0].reason
    assert "steps and" in finest or "a patch sees" in finest


def test_memory_is_a_reason(prospects):
    rows = consider(prospects[3], prospects, (), lambda _: "needs 9.5 GB of memory")
    assert {row.reason for row in rows[1:]} == {"needs 9.5 GB of memory"}


def test_what_was_tried_lost_by_its_trial(prospects):
    best = prospects[0]
    other = next(one for one in prospects if one.candidate.spacing_mm != best.candidate.spacing_mm)
    trials = (TrialResult(best, 300, 0.9, 2.0, 0.2), TrialResult(other, 150, 0.85, 4.04, 0.3))
    rows = consider(best, prospects, trials, free)
    (row,) = [row for row in rows if row.prospect == other]
    assert row.reason == (
        "tried: Dice 0.850, HD95 4.0 mm after 150 steps, against 0.900, 2.0 mm after 300"
    )


def test_what_failed_and_what_was_like_a_loser_is_said(prospects):
    best = prospects[5]
    tried = next(one for one in prospects if one.candidate != best.candidate)
    trials = (TrialResult(best, 300, 0.9, 2.0, 0.2), TrialResult(tried, 0, 0.0, 20.0, 0.3))
    reasons = {
        row.prospect.candidate: row.reason for row in consider(best, prospects, trials, free)
    }
    assert reasons[tried.candidate] == "its trial failed"
    # Nothing blames what was expected to lose less than what was chosen.
    for row in consider(best, prospects, trials, free)[1:]:
        better = all(
            getattr(row.prospect, name) <= getattr(best, name)
            for name in ("resolution", "sight", "practice")
        )
        assert ("not tried" in row.reason) == (better and row.prospect != tried)


def test_the_table_is_aligned_and_says_what_was_chosen(prospects):
    best = replace(prospects[0], steps=1234, passes=12.3, seen=1.0)
    lines = table(consider(best, prospects, (), free))
    assert lines[0].startswith("spacing mm")
    assert lines[1].endswith("chosen")
    assert "1234" in lines[1]
    column = lines[0].index("batch")
    assert all(line[column - 2 : column] == "  " for line in lines[1:])
