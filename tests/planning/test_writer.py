from dataclasses import replace

import pytest
import yaml

from pipeline.inference import KnownGpu
from pipeline.planning.compose import Choice, Plan, compose
from pipeline.planning.expect import Considered, expect
from pipeline.planning.mirror import decide_mirroring
from pipeline.planning.reasons import table
from pipeline.planning.rules import PlanConfig
from pipeline.planning.search import list_candidates
from pipeline.planning.writer import on_gpu_figures, plan_text, summary_of, write_plan
from pipeline.training import RunConfig
from pipeline.training.config import Resources

STEP = {
    "features": [32], "patch_size": [9, 9, 9], "batch_size": 2, "precision": "bf16",
    "predicted_gb": 2.0, "measured_gb": 3.0, "gflop": 50.0, "seconds": 0.1,
}  # fmt: skip


@pytest.fixture
def make_plan(make_survey, make_look, tmp_path):
    def make(spacing_mm=(0.6, 0.6, 3.6), shape=(320, 320, 20), **changes):
        survey = make_survey(spacing_mm, shape)
        request = PlanConfig(manifest=tmp_path / "m.yaml", out=tmp_path / "p.yaml")
        mirroring = decide_mirroring({"liver": 1}, survey.bodies)
        choice = Choice(request, 5, "cpu", survey, mirroring)
        look = make_look(survey)
        candidate, other = list_candidates(survey, "cpu")[::2][:2]
        best, second = (expect(one, survey, look, 0.4, 15.0) for one in (candidate, other))
        run = compose(choice, candidate, 15.0, Resources(memory_gb=2, seconds_per_iteration=0.4))
        said = {
            "timing": "measured",
            "look": look,
            "considered": (Considered(best, ""), Considered(second, "a reason")),
            "on_trials": "",
            "with_more": second,
        } | changes
        return Plan(run, choice, candidate, 8.0, 99.0, "a CPU", **said)

    return make


def test_the_file_reads_back_as_the_plan(make_plan, manifest, tmp_path):
    plan = make_plan()
    write_plan(plan, manifest, tmp_path / "p.yaml")
    text = (tmp_path / "p.yaml").read_text()
    assert RunConfig.model_validate(yaml.safe_load(text)) == plan.config
    # A path in the settings may be as long as it is.
    comments = [line for line in text.splitlines() if line.startswith("#")]
    assert max(len(line) for line in comments if not line.startswith("#   ")) <= 100


def test_each_group_stands_under_its_rule_and_numbers(make_plan, manifest):
    text = plan_text(make_plan(), manifest)
    lines = text.splitlines()
    for key in ("name", "preprocessing", "augmentation", "network", "training", "estimate"):
        (place,) = [n for n, line in enumerate(lines) if line.startswith(f"{key}:")]
        assert lines[place - 1].startswith("# ")
    joined = " ".join(line.removeprefix("# ") for line in lines)
    for words in (
        "doi:10.1038/s41592-020-01008-z",
        "label liver: in 100 of 100 cases, 50 ml",
        "label tumour: in no case",
        "thick slices (largest over smallest 6",
        "CT: clipped to 0.5 to 99.5 %",
        "R: mirrored: no label names a side",
        "99 GFLOP an iteration",
    ):
        assert words in joined


def test_what_bounds_the_patch_and_how_the_time_is_known_is_said(make_plan, manifest):
    idle = plan_text(make_plan(), manifest).replace("\n# ", " ")
    assert "At most about 600,000 voxels on this kind of device" in idle
    assert "measured on a CPU" in idle
    busy = make_plan(timing="busy")
    text = plan_text(busy, manifest).replace("\n# ", " ")
    assert "other processes took the cores" in text


def test_a_coarser_spacing_is_said(make_plan, make_survey, manifest):
    fine = make_plan((0.8, 0.8, 0.8), (512, 512, 300))
    coarse_mm = fine.look.accuracies[3]
    candidate = replace(fine.candidate, spacing_mm=coarse_mm.spacing_mm)
    config = compose(fine.choice, candidate, 15.0, fine.config.estimate)
    coarse = replace(fine, candidate=candidate, config=config)
    text = plan_text(coarse, manifest).replace("\n# ", " ")
    assert "Coarser than that, by what the table above says." in text
    bound = f"keep a Dice of {coarse_mm.dice:.3f} and an HD95 of {coarse_mm.hd95_mm:.2g} mm"
    assert bound in text
    assert any(bound in line for line in summary_of(coarse))
    assert "Coarser" not in plan_text(fine, manifest)


def test_the_candidates_are_a_table_in_the_file_and_in_the_summary(make_plan, manifest):
    plan = make_plan()
    rows = table(plan.considered)
    assert len(rows) == 3
    assert rows[2].endswith("a reason")
    text = plan_text(plan, manifest)
    for row in rows:
        assert f"#   {row}\n" in text
        assert row in summary_of(plan)


def test_mirrored_prediction_is_said(make_plan, manifest):
    text = plan_text(make_plan((1.0, 1.0, 1.0), (35, 50, 36)), manifest)
    assert "mirror images are averaged" in text.replace("\n# ", " ")
    assert "inference: {mirror: true}" in text
    assert "inference:" not in plan_text(make_plan((1.0, 1.0, 1.0), (300, 300, 300)), manifest)


def test_what_four_times_the_minutes_would_choose_is_said(make_plan, manifest):
    plan = make_plan()
    line = f"with 60 minutes it would be: {plan.with_more.candidate}"
    assert line in summary_of(plan)
    assert line[1:] in plan_text(plan, manifest).replace("\n# ", " ")
    same = replace(plan, with_more=plan.considered[0].prospect)
    assert "with 60 minutes it would be: the same" in summary_of(same)


def test_thick_slices_are_said_to_be_none_where_the_shape_does_not_differ(make_plan, manifest):
    flat, tall = (
        plan_text(make_plan((0.6, 0.6, 3.6), shape), manifest).replace("\n# ", " ")
        for shape in ((320, 320, 20), (100, 100, 60))
    )
    assert "thick slices (largest over smallest 6, the shape differs as much)" in flat
    assert "largest over smallest 6: no thick slices, which begin where spacing and shape" in tall


def test_where_the_figures_of_a_gpu_come_from_is_said(make_plan):
    gpu = KnownGpu(
        name="A GPU", memory_gb=8.0, context_gb=1.0, measured="in 2026", steps=(STEP,),
        batch_voxels=1, max_batch=1,
    )  # fmt: skip
    plan = make_plan()

    def said(name, known, timing):
        choice = replace(plan.choice, kind="cuda", gpu=known)
        return on_gpu_figures(replace(plan, choice=choice, device=name, timing=timing))

    assert said("A GPU", None, "counted") == (
        "memory and time are estimates: no GPU has been measured yet"
    )
    assert said("A GPU", None, "measured") == (
        "memory is an estimate: no GPU has been measured yet"
    )
    assert said("A GPU", gpu, "counted") == (
        "memory and time are from measurements on A GPU (in 2026)"
    )
    assert said("Another", gpu, "measured").startswith(
        "memory is an estimate from measurements on A GPU (in 2026), the GPU whose memory"
    )


def test_whether_the_training_set_stays_on_the_gpu_is_said(make_plan, manifest):
    """100 cases of 100^3 voxels at 1 mm, float32 and 16 bits: 0.6 GB."""
    plan = make_plan((1.0, 1.0, 1.0), (100, 100, 100))
    assert plan.candidate.spacing_mm == (1.0, 1.0, 1.0)
    on_gpu = replace(plan, choice=replace(plan.choice, kind="cuda"))
    # A step takes 2 of 8 GB; half of what it leaves is for validation.
    line = "the training set stays on the GPU: it takes about 0.6 GB, 3 GB are there for it"
    assert line in summary_of(on_gpu)
    text = " ".join(plan_text(on_gpu, manifest).replace("\n#", "").split())
    assert line[1:] in text
    small = replace(on_gpu, memory_gb=3.0)
    line = "the training set is read from the cache: it takes about 0.6 GB, 0.5 GB are there for it"
    assert line in summary_of(small)


def test_the_summary_is_a_table_between_few_lines(make_plan):
    lines = summary_of(make_plan())
    assert len(lines) == 5 + 2 + 3
