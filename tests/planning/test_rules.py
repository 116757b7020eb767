import numpy as np
import pytest

from pipeline.planning.rules import (
    augmentation_for,
    budget_minutes,
    coarsen,
    epochs_between_validations,
    foreground_share,
    is_anisotropic,
    largest_batch,
    largest_coarsening,
    target_spacing,
)
from pipeline.transforms import AugmentationConfig


def test_isotropic_data_keeps_its_median(make_survey):
    survey = make_survey((0.8, 0.8, 1.0), (512, 512, 300))
    assert not is_anisotropic(survey)
    assert target_spacing(survey) == (0.8, 0.8, 1.0)


def test_thick_slices_take_the_10th_percentile_along_their_axis(make_survey):
    survey = make_survey((0.6, 0.6, 3.6), (320, 320, 20), p10=(0.5, 0.5, 3.0))
    assert is_anisotropic(survey)
    assert target_spacing(survey) == (0.6, 0.6, 3.0)
    # Never finer than in the plane.
    survey = make_survey((0.6, 0.6, 3.6), (320, 320, 20), p10=(0.5, 0.5, 0.3))
    assert target_spacing(survey) == (0.6, 0.6, 0.6)


def test_thick_slices_need_the_shape_to_differ_too(make_survey):
    assert not is_anisotropic(make_survey((0.6, 0.6, 3.6), (100, 100, 60)))


def test_coarsening_reaches_its_factor_in_the_fine_axes_first():
    spacing = coarsen((1.0, 1.0, 5.0), 3.0)
    assert spacing[2] == 5.0
    assert 3.0 <= np.prod(spacing) / 5.0 < 3.0 * 1.03**2 * 1.01
    even = coarsen((1.0, 1.0, 1.0), 8.0)
    assert even == pytest.approx((2, 2, 2), rel=0.04)
    assert coarsen((0.7, 0.8, 0.9), 1.0) == (0.7, 0.8, 0.9)


def test_the_smallest_label_bounds_the_coarsening(make_survey):
    # 1.6 ml are 1600 mm3: 200 voxels of 8 mm3.
    assert largest_coarsening(make_survey((1, 1, 1), (9, 9, 9), volume_ml=1.6), (1, 1, 1)) == 8
    assert largest_coarsening(make_survey((1, 1, 1), (9, 9, 9), volume_ml=0.1), (1, 1, 1)) == 1


def test_a_batch_is_at_least_two_and_at_most_5_percent_of_the_data(make_survey):
    survey = make_survey((1, 1, 1), (40, 56, 40), num_cases=100)
    assert largest_batch(survey, 89_600, 89_600, "cuda") == 5
    assert largest_batch(survey, 89_600, 89_600, "cpu") == 4
    assert largest_batch(make_survey((1, 1, 1), (9, 9, 9), num_cases=1), 1000, 1000, "cuda") == 2


def test_rare_labels_get_more_of_the_patches(make_survey):
    shares = [
        foreground_share(make_survey((1, 1, 1), (9, 9, 9), share=s)) for s in (0.001, 0.05, 0.5)
    ]
    assert shares == [0.8, 0.67, 0.5]


def test_the_budget_is_passes_within_bounds(make_survey):
    survey = make_survey((1, 1, 1), (9, 9, 9), num_cases=100)
    # 100 passes over 100 cases in batches of 4 are 2500 iterations.
    assert budget_minutes(survey, 1.0, 4, 0.34, "cpu") == 15
    assert budget_minutes(survey, 0.01, 4, 5.0, "cpu") == 60
    assert budget_minutes(survey, 1.0, 4, 0.01, "cpu") == 5


def test_patches_change_more_where_cases_are_seen_often(make_survey):
    survey = make_survey((1, 1, 1), (9, 9, 9), num_cases=100)
    # 4 x 0.5 patches of 100 cases: 7500 iterations show each volume 150 times.
    assert augmentation_for(survey, 0.5, 4, 7500) == {}
    stronger = AugmentationConfig(**augmentation_for(survey, 0.5, 4, 7501))
    default = AugmentationConfig()
    assert stronger.rotation_degrees > default.rotation_degrees
    assert stronger.elastic_probability > default.elastic_probability == 0


def test_about_ten_validations():
    assert epochs_between_validations(15, 0.36, 50) == {
        "iterations_per_epoch": 50,
        "validate_every_epochs": 5,
    }
    assert epochs_between_validations(1, 1, 50) == {
        "iterations_per_epoch": 6,
        "validate_every_epochs": 1,
    }
    assert epochs_between_validations(0.01, 60, 50)["iterations_per_epoch"] == 1
