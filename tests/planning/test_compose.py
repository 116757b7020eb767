from dataclasses import replace

import pytest

from pipeline.planning.compose import Choice, compose, count_voxels, round_to, settings_of
from pipeline.planning.mirror import decide_mirroring
from pipeline.planning.rules import PlanConfig
from pipeline.planning.search import list_candidates
from pipeline.training.config import Resources


@pytest.fixture
def make_choice(make_survey, tmp_path):
    def make(spacing_mm, shape, **request):
        survey = make_survey(spacing_mm, shape)
        out = {"manifest": tmp_path / "m.yaml", "out": tmp_path / "p.yaml"} | request
        mirroring = decide_mirroring({"liver": 1}, survey.bodies)
        return Choice(PlanConfig(**out), 5, "cpu", survey, mirroring)

    return make


def test_what_is_chosen_becomes_the_run(make_choice):
    choice = make_choice(
        (0.6, 0.6, 3.6), (320, 320, 20), reading={"data": {"root": "data"}}, device="cpu"
    )
    candidate = list_candidates(choice.survey, "cpu")[0]
    estimate = Resources(memory_gb=2.0, seconds_per_iteration=0.6)
    run = compose(choice, candidate, 10.0, estimate)
    assert run.preprocessing.spacing_mm == candidate.spacing_mm
    assert run.training.patch_size == candidate.shape.patch_size
    assert run.network.strides == candidate.shape.strides
    assert run.network.kernel_sizes == candidate.shape.kernel_sizes
    assert (run.training.max_minutes, run.estimate) == (10.0, estimate)
    assert (str(run.data.root), run.device, run.data.folds) == ("data", "cpu", 5)
    assert run.augmentation.flip_axes == ("R",)


def test_a_long_budget_changes_patches_more(make_choice):
    choice = make_choice((1.0, 1.0, 1.0), (35, 50, 36))
    candidate = list_candidates(choice.survey, "cpu")[0]
    estimate = Resources(memory_gb=2.0, seconds_per_iteration=0.3)
    short, long = (compose(choice, candidate, minutes, estimate) for minutes in (5.0, 600.0))
    assert short.augmentation.elastic_probability == 0
    assert long.augmentation.elastic_probability > 0
    assert long.augmentation.flip_axes == short.augmentation.flip_axes


def test_a_study_that_is_soon_predicted_is_predicted_mirrored_too(make_choice):
    small, large = (
        make_choice((1.0, 1.0, 1.0), shape) for shape in ((35, 50, 36), (300, 300, 300))
    )
    whole, part = (
        next(c for c in list_candidates(small.survey, "cpu") if c.shape.patch_size == patch)
        for patch in ((40, 56, 40), (32, 32, 32))
    )
    # One window; windows of 32 that begin at 0 and 3; at 0, 16 and 18; and at 0 and 4.
    assert count_voxels(whole, small.survey) == 40 * 56 * 40
    assert count_voxels(part, small.survey) == 2 * 3 * 2 * 32**3
    assert compose(small, whole, 5.0).inference.mirror
    assert compose(small, part, 5.0).inference.mirror
    assert not compose(large, list_candidates(large.survey, "cpu")[0], 5.0).inference.mirror
    assert not compose(replace(small, mirroring=()), whole, 5.0).inference.mirror


def test_what_is_the_default_is_left_out(make_choice):
    choice = make_choice((1.0, 1.0, 1.0), (35, 50, 36))
    settings = settings_of(choice, list_candidates(choice.survey, "cpu")[0], 5.0)
    assert set(settings["network"]) == {"name", "features"}
    assert "device" not in settings
    assert "root" not in settings["data"]


@pytest.mark.parametrize(
    ("stem", "name"),
    [("mine", "mine"), ("my plan", "my_plan"), (".hidden", "hidden"), ("é", "plan")],
)
def test_any_file_name_makes_a_name_of_a_run(make_choice, tmp_path, stem, name):
    choice = make_choice((1.0, 1.0, 1.0), (16, 16, 16), out=tmp_path / f"{stem}.yaml")
    assert compose(choice, list_candidates(choice.survey, "cpu")[0], 5.0).name == name


def test_rounding():
    assert [round_to(v, 3) for v in (1234.5, 0.0012345)] == [1230, 0.00123]
