import csv
import json
import sys

import nibabel as nib
import numpy as np
import pytest
import torch

from pipeline.config import load_config
from pipeline.errors import ConfigError, ManifestError
from pipeline.inference import KnownGpu
from pipeline.manifest import load_manifest
from pipeline.phantom import PhantomConfig, make_cohort
from pipeline.planning import PlanConfig, estimate, plan, summary_of
from pipeline.planning.memory import make_step, num_outputs_of, trace_cost
from pipeline.planning.plan import find_device
from pipeline.planning.rules import LONGEST_MINUTES
from pipeline.planning.search import LARGEST_PATCH
from pipeline.planning.trial_ground import TrialResult
from pipeline.planning.trials import Trials
from pipeline.system.ownership import REPLACED
from pipeline.training import RunConfig, RunFolder, train
from pipeline.training.prepare import prepare_run


@pytest.fixture(scope="session")
def phantom(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom")
    return make_cohort(folder, PhantomConfig(kind="ct", num_train=6, num_validation=1))


@pytest.fixture(scope="module", autouse=True)
def traced_once():
    """Each network is traced by the first test that plans it, since the same costs the same."""
    known = {}

    def trace(config, manifest, kind):
        outputs = len(manifest.channels), num_outputs_of(manifest)
        key = config.network, config.training.precision, kind, outputs
        if key not in known:
            known[key] = trace_cost(config, manifest, kind)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.planning.estimate.trace_cost", trace)
        yield


@pytest.fixture
def make_data(tmp_path):
    """A Decathlon data set of given shape and spacing; labels fill a corner of a bright block."""

    def make(shape, spacing_mm=(1, 1, 1), num_cases=3, num_channels=1):
        rng = np.random.default_rng(0)
        for name in ("imagesTr", "labelsTr"):
            (tmp_path / "data" / name).mkdir(parents=True)
        affine = np.diag([*spacing_mm, 1.0])
        training = []
        for n in range(num_cases):
            full = shape if num_channels == 1 else (*shape, num_channels)
            image = rng.normal(100, 20, full).astype(np.float32)
            label = np.zeros(shape, np.uint8)
            label[tuple(slice(0, max(1, size // 3)) for size in shape)] = 1
            files = {"image": f"./imagesTr/c{n}.nii.gz", "label": f"./labelsTr/c{n}.nii.gz"}
            for kind, voxels in (("image", image), ("label", label)):
                nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "data" / files[kind])
            training.append(files)
        content = {
            "name": "made",
            "modality": {str(c): f"T{c + 1}" for c in range(num_channels)},
            "labels": {"0": "background", "1": "thing"},
            "training": training,
        }
        path = tmp_path / "data" / "dataset.json"
        path.write_text(json.dumps(content))
        return path

    return make


def request(manifest, out, **keywords):
    return PlanConfig(manifest=manifest, out=out, device="cpu", measure=False, **keywords)


def test_the_phantoms_plan(phantom, tmp_path):
    result = plan(request(phantom, tmp_path / "ct.yaml", minutes=30))
    run = load_config(RunConfig, tmp_path / "ct.yaml")
    assert run == result.config
    assert run.augmentation.flip_axes == ()
    right = result.choice.mirroring[0].evidence
    assert "label 'left_kidney' names a side (left)" in right
    assert "liver lies right of the image's centre in 6 of 6 cases" in right
    # The cases that validate are not looked at.
    assert result.choice.survey.fingerprint.num_cases == 6
    assert 20_000 < np.prod(run.training.patch_size) <= LARGEST_PATCH["cpu"]
    assert run.training.max_minutes == 30


def test_what_is_planned_trains_and_says_what_it_took(phantom, tmp_path, caplog):
    plan(request(phantom, tmp_path / "ct.yaml", memory_gb=1.5))
    words = [
        f"output={tmp_path}", f"data.cache={tmp_path}/cache", "training.max_iterations=6",
        "training.num_workers=0", "training.num_validation_cases=0", "training.batch_size=2",
        "training.patch_size=[32, 32, 16]", "network.features=[4, 8, 8]", "network.strides=null",
        "network.kernel_sizes=null", "preprocessing.spacing_mm=[8, 8, 8]",
        "evaluation.num_resamples=10", "inference.overlap=0.1", "training.precision=fp32",
        "training.layout=contiguous",
    ]  # fmt: skip
    config = load_config(RunConfig, tmp_path / "ct.yaml", words)
    with caplog.at_level("INFO", "pipeline"):
        folder = train(config).folder
    measured = json.loads((folder.path / "resources.json").read_text())
    assert measured["planned"] == config.estimate.model_dump()
    assert measured["measured"]["memory_gb"] > 0
    assert "planned " in caplog.text


def test_less_memory_makes_smaller_patches(phantom, tmp_path):
    voxels, batches = [], []
    for number, memory_gb in enumerate((1.0, 1.2, 8.0)):
        result = plan(request(phantom, tmp_path / f"{number}.yaml", memory_gb=memory_gb))
        assert result.config.estimate.memory_gb <= memory_gb * 1.001
        voxels.append(result.candidate.shape.num_voxels)
        batches.append(result.candidate.batch_size)
    assert voxels == sorted(voxels)
    assert voxels[0] < voxels[-1]
    assert min(batches) >= 2


def test_too_little_memory_says_how_much_it_takes(phantom, tmp_path):
    with pytest.raises(ConfigError, match=r"0\.5 GB, but training the smallest network takes"):
        plan(request(phantom, tmp_path / "a.yaml", memory_gb=0.5))
    assert not (tmp_path / "a.yaml").exists()


def test_a_file_that_is_there_stays(phantom, tmp_path):
    out = tmp_path / "mine.yaml"
    out.write_text("precious")
    with pytest.raises(ConfigError, match=r"mine\.yaml: exists already.*--replace"):
        plan(request(phantom, out))
    assert out.read_text() == "precious"
    plan(request(phantom, out, replace=True))
    (kept,) = (tmp_path / REPLACED).rglob("mine.yaml")
    assert kept.read_text() == "precious"
    assert load_config(RunConfig, out).name == "mine"


@pytest.mark.parametrize(
    ("shape", "spacing_mm", "num_channels"),
    [
        ((12, 9, 5), (1, 1, 1), 1),
        ((40, 40, 3), (0.5, 0.5, 6), 1),
        ((30, 1, 30), (1, 5, 1), 1),
        ((24, 28, 20), (1, 1, 1), 2),
        ((96, 96, 12), (0.6, 0.6, 3.6), 1),
    ],
)
def test_odd_data_gives_a_plan_whose_step_runs(
    make_data, tmp_path, shape, spacing_mm, num_channels
):
    manifest = make_data(shape, spacing_mm, num_channels=num_channels)
    result = plan(request(manifest, tmp_path / "odd.yaml"))
    run = load_config(RunConfig, tmp_path / "odd.yaml")
    assert run.data.folds == 3
    _, step = make_step(run, load_manifest(manifest), torch.device("cpu"))
    assert np.isfinite(step())
    assert not result.choice.mirroring[0].is_allowed


def test_one_case_gives_a_plan_and_a_warning(make_data, tmp_path, caplog):
    plan(request(make_data((16, 16, 16), num_cases=1), tmp_path / "one.yaml"))
    assert "one subject; training needs a second one" in caplog.text
    assert "One subject only" in (tmp_path / "one.yaml").read_text()


def test_the_speed_is_measured_only_where_the_planned_size_fits(make_data, tmp_path, caplog):
    asked = request(make_data((16, 16, 16)), tmp_path / "a.yaml", minutes=5)
    asked = asked.model_copy(update={"measure": True})
    result = plan(asked)
    # Tests run side by side, so the machine may be busy.
    assert result.timing in ("measured", "busy")
    more = asked.model_copy(update={"memory_gb": 1e6, "out": tmp_path / "b.yaml"})
    assert plan(more).timing == "counted"
    assert "planning for 1e+06 GB, but a CPU with 1 thread has" in caplog.text


def test_without_minutes_all_follows_from_those_that_the_plan_sets(make_data, tmp_path):
    result = plan(request(make_data((24, 24, 24)), tmp_path / "a.yaml"))
    minutes, best = result.config.training.max_minutes, result.considered[0].prospect
    assert minutes < LONGEST_MINUTES["cpu"]
    assert best.candidate == result.candidate
    assert best.steps == int(60 * minutes / best.seconds)


def test_trials_on_the_cases_that_the_run_trains_on_decide(make_data, tmp_path, monkeypatch):
    held = []

    def hold(doubtful, choice, manifest, cases, pricer, minutes):
        held.append((cases, minutes))
        return Trials(
            tuple(TrialResult(one, 100, 0.5, 1.0, 0.5) for one in reversed(doubtful)), "as told"
        )

    module = find_device.__module__
    monkeypatch.setattr(sys.modules[module], "contenders", lambda prospects, *_: prospects[:2])
    monkeypatch.setattr(sys.modules[module], "hold_trials", hold)
    monkeypatch.setattr(estimate, "measure_seconds", lambda *_: estimate.StepTime(0.1, False))
    asked = request(make_data((48, 48, 48), num_cases=6), tmp_path / "a.yaml", minutes=7)
    result = plan(asked.model_copy(update={"measure": True}))
    best, second = result.considered[:2]
    assert (result.candidate, best.reason) == (best.prospect.candidate, "")
    assert best.prospect.loss >= second.prospect.loss, "the rules alone had chosen otherwise"
    assert any(row.reason.startswith("tried: Dice 0.500") for row in result.considered)
    assert "as told" in summary_of(result)
    assert "As told." in asked.out.read_text()
    ((cases, minutes),) = held
    assert minutes == 7
    run = load_config(RunConfig, asked.out, [f"output={tmp_path}"])
    planned = prepare_run(run, RunFolder(run.folder)).split
    assert planned.validation
    assert {case.name for case in cases} == {case.name for case in planned.train}


@pytest.mark.parametrize("last", [1, 3])
def test_what_runs_out_of_memory_while_it_is_timed_is_left_out(
    make_data, tmp_path, monkeypatch, last
):
    """Both widths are timed, then what is chosen; one of them fails then, or only in the end."""
    timed = []

    def measure(run, *_):
        timed.append(run.network.features[0])
        if len(timed) >= last and timed[-1] == timed[last - 1]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return estimate.StepTime(0.001 if timed[-1] == 16 else 1.0, was_busy=False)

    monkeypatch.setattr(estimate, "measure_seconds", measure)
    monkeypatch.setattr(sys.modules[find_device.__module__], "hold_trials", lambda *_: Trials())
    asked = request(make_data((48, 48, 48), num_cases=6), tmp_path / "a.yaml", minutes=0.1)
    result = plan(asked.model_copy(update={"measure": True}))
    left_out = timed[last - 1]
    assert result.candidate.features[0] == 24 - left_out
    assert result.with_more.candidate.features[0] == 24 - left_out
    reasons = [
        row.reason for row in result.considered if row.prospect.candidate.features[0] == left_out
    ]
    assert set(reasons) == {f"a step with {left_out} features ran out of memory"}


def test_where_every_width_runs_out_of_memory_the_remedy_is_named(make_data, tmp_path, monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(estimate, "measure_seconds", fail)
    asked = request(make_data((24, 24, 24)), tmp_path / "a.yaml", minutes=1)
    with pytest.raises(ConfigError, match=r"ran out of it\. Name less with --memory"):
        plan(asked.model_copy(update={"measure": True}))


def test_a_folder_is_no_place_for_a_plan(tmp_path):
    with pytest.raises(ConfigError, match=r"this is a folder\. Name a file"):
        plan(request(tmp_path / "m.json", tmp_path, replace=True))


def test_a_data_set_of_test_cases_is_refused(tmp_path):
    (tmp_path / "cases.csv").write_text("case,image,label,split\na,a.nii.gz,,test\n")
    (tmp_path / "m.yaml").write_text(
        "{name: x, channels: [{name: T1, modality: MR}], labels: {a: 1}, cases: cases.csv}"
    )
    with pytest.raises(ManifestError, match="no cases to train on"):
        plan(request(tmp_path / "m.yaml", tmp_path / "p.yaml"))


def test_a_gpu_elsewhere_needs_its_memory(phantom, tmp_path, monkeypatch):
    missing = PlanConfig(manifest=phantom, out=tmp_path / "gpu.yaml", device="cuda:99", minutes=60)
    with pytest.raises(ConfigError, match="name its memory: --memory 24GB"):
        find_device(missing)
    monkeypatch.setattr(sys.modules[find_device.__module__], "known_gpus", lambda: ())
    result = plan(missing.model_copy(update={"memory_gb": 8.0}))
    assert result.config.network.features[0] == 32
    assert result.timing == "counted"
    said = "memory and time are estimates: no GPU has been measured yet"
    assert said in summary_of(result)
    words = " ".join(missing.out.read_text("utf-8").replace("\n#", "").split())
    assert "Memory and time are estimates: no GPU has been measured yet." in words
    with pytest.raises(ConfigError, match="is no device"):
        find_device(missing.model_copy(update={"device": "tpu", "memory_gb": 8.0}))


def test_a_plan_follows_the_table_of_measured_gpus(phantom, tmp_path, monkeypatch):
    """A step took 3 GB where its tensors are 2, and 500 GFLOP a second; CUDA itself took 1 GB."""
    step = {
        "features": [32], "patch_size": [9, 9, 9], "batch_size": 2, "precision": "bf16",
        "predicted_gb": 2.0, "measured_gb": 3.0, "gflop": 50.0, "seconds": 0.1,
    }  # fmt: skip
    gpu = KnownGpu(
        name="A GPU", memory_gb=24.0, context_gb=1.0, measured="in 2026", steps=(step,),
        batch_voxels=1, max_batch=1,
    )  # fmt: skip
    monkeypatch.setattr(sys.modules[find_device.__module__], "known_gpus", lambda: (gpu,))
    out = tmp_path / "p.yaml"
    asked = PlanConfig(manifest=phantom, out=out, device="cuda:99", memory_gb=20.0)
    result = plan(asked)
    cost = estimate.trace_cost(result.config, load_manifest(phantom), "cuda")
    training, planned = result.config.training, result.config.estimate
    voxels = training.batch_size * np.prod(training.patch_size)
    assert planned.memory_gb == pytest.approx(1 + 1.5 * cost.tensors_gb(voxels), rel=5e-3)
    assert planned.seconds_per_iteration == pytest.approx(result.gflops / 500, rel=5e-3)
    said = "estimates from measurements on A GPU (in 2026), the GPU whose memory is nearest"
    assert any(said in line for line in summary_of(result))


def test_data_without_labelled_voxels_is_refused(tmp_path):
    ramp = np.arange(512, dtype=np.int16).reshape(8, 8, 8)
    for name in "ab":
        nib.save(nib.Nifti1Image(ramp, np.eye(4)), tmp_path / f"{name}.nii.gz")
        empty = nib.Nifti1Image(np.zeros_like(ramp), np.eye(4))
        nib.save(empty, tmp_path / f"{name}_label.nii.gz")
    with (tmp_path / "cases.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["case", "image", "label"])
        rows.writerows([n, f"{n}.nii.gz", f"{n}_label.nii.gz"] for n in "ab")
    (tmp_path / "m.yaml").write_text(
        "{name: x, channels: [{name: T1, modality: MR}], labels: {a: 1}, cases: cases.csv}"
    )
    with pytest.raises(ManifestError, match="no foreground voxel"):
        plan(request(tmp_path / "m.yaml", tmp_path / "p.yaml"))


def test_hippocampus(shared_data, tmp_path):
    root = shared_data / "Task04_Hippocampus"
    few = json.loads((root / "dataset.json").read_text())
    few["training"] = few["training"][:20]
    (tmp_path / "few.json").write_text(json.dumps(few))
    result = plan(
        request(
            tmp_path / "few.json", tmp_path / "hippocampus.yaml", reading={"data": {"root": root}}
        )
    )
    assert result.config.preprocessing.spacing_mm == (1, 1, 1)
    assert result.config.training.patch_size == (40, 56, 40)
    assert result.config.network.features == (16, 32, 64, 128)
    assert result.config.augmentation.flip_axes == ("R",)
