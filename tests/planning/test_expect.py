from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.planning.expect import (
    FIRST_STEPS,
    NARROW,
    PRACTICE,
    RESOLUTION,
    SIGHT,
    expect,
    expect_practice,
    share_seen,
)
from pipeline.planning.search import list_candidates

LARGE_ORGAN = ((0.6, 0.6, 0.6), (190, 145, 88))


def seconds_of(candidate):
    return 1e-6 * candidate.batch_size * candidate.shape.num_voxels * candidate.features[0] / 16


def best(survey, look, minutes, candidates=None):
    found = (
        expect(one, survey, look, seconds_of(one), minutes)
        for one in candidates or list_candidates(survey, "cpu")
    )
    return min(found, key=lambda prospect: prospect.loss)


def test_by_hand(make_survey, make_look):
    survey = make_survey(*LARGE_ORGAN)
    look = make_look(survey, lost_per_mm=0.02)
    candidate = next(
        one for one in list_candidates(survey, "cpu")
        if one.patch_share == 1 and one.batch_size == 2 and one.features[0] == 16
    )  # fmt: skip
    found = expect(candidate, survey, look, 0.5, 30.0)
    assert found.steps == 3600
    # 100 cases, each seen whole by one of two patches.
    assert found.passes == pytest.approx(3600 * 2 / 100)
    assert found.resolution == pytest.approx(RESOLUTION * 0.02 * (candidate.spacing_mm[0] - 0.6))
    assert found.seen == 1
    assert found.sight == 0
    assert found.loss == pytest.approx(found.resolution + found.practice)


def test_a_patch_sees_a_share_of_the_structure_and_what_surrounds_it(make_survey, make_look):
    survey = make_survey(*LARGE_ORGAN)
    look = make_look(survey, extent_mm=(60.0, 40.0, 30.0))
    candidate = list_candidates(survey, "cpu")[-1]
    edges = np.array(candidate.edges_mm)
    # Half as much again as the organ, at most the volume of 114 x 87 x 52.8 mm.
    wanted = np.array([90.0, 60.0, 45.0])
    seen = share_seen(candidate, survey, look)
    assert seen == pytest.approx(np.prod(np.minimum(edges / wanted, 1)))
    assert 0 < seen < 1
    found = expect(candidate, survey, look, 0.1, 5.0)
    assert found.sight == pytest.approx(SIGHT * (1 - seen))
    # A second, small structure wants 32 mm: the mean of both counts.
    both = replace(look, extents_mm=look.extents_mm | {2: (3.0, 4.0, 5.0)})
    small = np.prod(np.minimum(edges / 32.0, 1))
    assert share_seen(candidate, survey, both) == pytest.approx((seen + small) / 2)


def test_narrow_networks_and_few_steps_lose_more(make_survey):
    wide, narrow = (
        next(one for one in list_candidates(make_survey(*LARGE_ORGAN), "cpu")
             if one.features[0] == width and one.batch_size == 2)
        for width in (16, 8)
    )  # fmt: skip
    few, many = PRACTICE / 10 + (FIRST_STEPS / 100) ** 2, PRACTICE / 20 + (FIRST_STEPS / 400) ** 2
    assert expect_practice(100, wide, 1) == pytest.approx(few)
    assert expect_practice(400, wide, 1) == pytest.approx(many)
    assert expect_practice(400, narrow, 1) == pytest.approx(many + NARROW[8])
    # Of 16 labels each is seen in so many patches less that four times the steps make up for it.
    assert expect_practice(400, wide, 16) == pytest.approx(few)


def test_more_minutes_never_choose_a_coarser_grid_of_the_whole_volume(make_survey, make_look):
    survey = make_survey(*LARGE_ORGAN)
    all_of_them = list_candidates(survey, "cpu")

    @given(st.floats(1, 300), st.floats(1, 10), st.floats(0.001, 0.2))
    @settings(max_examples=20, deadline=None)
    def holds(minutes, factor, lost_per_mm):
        look = make_look(survey, lost_per_mm)
        few, many = (best(survey, look, each, all_of_them) for each in (minutes, minutes * factor))
        assert many.loss <= few.loss
        if few.seen == many.seen and few.candidate.batch_size == many.candidate.batch_size:
            assert many.candidate.spacing_mm <= few.candidate.spacing_mm

    holds()


def test_thin_structures_are_trained_finer_than_large_ones(make_survey, make_look):
    survey = make_survey(*LARGE_ORGAN)
    thin = best(survey, make_look(survey, lost_per_mm=0.3), 30)
    large = best(survey, make_look(survey, lost_per_mm=0.01), 30)
    assert thin.candidate.spacing_mm < large.candidate.spacing_mm
    assert large.seen == 1
