"""Runs with trainings that are only pretended: they leave a model of random weights."""

import json
import signal
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml

from benchmarks.compare import Stopped
from benchmarks.planning import __main__ as command
from benchmarks.planning import runs
from benchmarks.planning.grounds import Ground, make_ground
from benchmarks.planning.hand_made import COMMON, HAND_MADE, STARTING_COMMIT
from benchmarks.planning.page import page
from benchmarks.planning.record import Content, Record
from benchmarks.planning.schedule import MIDDLE, SHORT, Run
from pipeline.config import build_config
from pipeline.manifest import load_manifest, split_cases
from pipeline.model import save_model
from pipeline.planning.estimate import StepTime
from pipeline.training import RunConfig, RunFolder
from pipeline.training.recorder import EpochMetrics, Recorder
from tests.tiny import tiny_model


@pytest.fixture(autouse=True)
def signals_of_before():
    """The command changes what SIGTERM does, for good: it is a process of its own."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


FIRST = "large_organ/1.25 mm, 96 x 80 x 48, 16/5"
SECOND = "large_organ/2 mm, 64 x 48 x 32, 24, 5 levels/5"


@pytest.fixture
def ground(tmp_path):
    """Two test cases: in each, the organ is a cube."""
    folder = tmp_path / "cases"
    folder.mkdir()
    rows = ["case,image,label,split"]
    for name in ("a", "b"):
        labels = np.zeros((9, 9, 9), np.uint8)
        labels[3:6, 3:6, 3:6] = 1
        image = labels * 40 + np.random.default_rng(0).normal(100, 9, labels.shape)
        for kind, voxels in (("image", image.astype(np.float32)), ("label", labels)):
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / f"{name}_{kind}.nii.gz")
        rows.append(f"{name},{name}_image.nii.gz,{name}_label.nii.gz,test")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    content = {
        "name": "cubes", "channels": [{"name": "T1", "modality": "MR"}], "labels": {"organ": 1},
        "cases": "cases.csv",
    }  # fmt: skip
    (folder / "manifest.yaml").write_text(yaml.safe_dump(content))
    return Ground(folder / "manifest.yaml")


@pytest.fixture
def trained(ground, monkeypatch):
    """What trainings were asked for: pairs of the configuration and the number of threads."""
    asked = []

    def train(words, log, threads):
        config = build_config(RunConfig, yaml.safe_load(Path(words[0]).read_text()), [], where="x")
        asked.append((config, threads))
        if config.name in stopped:
            stopped.remove(config.name)
            raise Stopped
        save_model(tiny_model(), config.folder / "model")
        row = EpochMetrics(1, config.training.max_iterations or 7, 301.5, 1e-3, 0.5, 0.1, None)
        Recorder(config.folder, 0).add(row)

    stopped = []
    train.asked, train.stopped = asked, stopped
    monkeypatch.setattr(runs, "make_ground", lambda *_: ground)
    monkeypatch.setattr(runs, "train", train)
    monkeypatch.setattr(runs, "measure_seconds", lambda *_: StepTime(0.5, was_busy=True))
    return train


def give(tmp_path, *words):
    where = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "page.md"), "--threads", "1"]
    return command.main([*where, *words])


def found(tmp_path):
    return json.loads((tmp_path / "page.json").read_text())


def test_a_finished_run_is_not_run_again_and_a_stopped_one_goes_on(tmp_path, trained):
    trained.stopped.append("2_mm__64_x_48_x_32__24__5_levels_5min")
    words = ["--only", FIRST, SECOND]
    assert give(tmp_path, *words) == 130
    assert set(found(tmp_path)["runs"]) == {FIRST}
    assert give(tmp_path, *words) == 0
    assert set(found(tmp_path)["runs"]) == {FIRST, SECOND}
    first, stopped, again = trained.asked
    assert stopped == again
    assert give(tmp_path, *words) == 0
    assert len(trained.asked) == 3
    config, threads = first
    assert threads == 1
    # 5 minutes of which 85 % go to steps of half a second.
    assert (config.training.max_minutes, config.training.max_iterations) == (None, 552)
    assert config.training.patch_size == (96, 80, 48)


def test_a_run_is_recorded_with_its_scores_and_its_page(tmp_path, trained):
    assert give(tmp_path, "--only", FIRST) == 0
    content = found(tmp_path)
    run = content["runs"][FIRST]
    assert run["scores"]["cases"] == ["a", "b"]
    assert set(run["scores"]) == {
        "cases", "dice", "hd95_mm", "nsd", "volume_error_percent", "stray_mm",
    }  # fmt: skip
    assert run["without"] == run["scores"]
    assert (run["iterations"], run["train_s"], run["by"]) == (552, 301.5, "count")
    assert run["clean_up"]["chosen"] == "none"
    assert [step["how"] for step in content["steps"].values()] == ["processor time"]
    text = (tmp_path / "page.md").read_text()
    (row,) = [
        line for line in text.splitlines() if line.startswith("| 1.25 mm, 96 x 80 x 48, 16 |")
    ]
    assert "| 1.25 x 1.25 x 1.25 | 96 x 80 x 48 | 2 | 16-32-64-128 | 552 | 0.5 *p* | 302 |" in row


def test_a_run_that_fails_is_told_and_does_not_stop_the_others(tmp_path, trained, monkeypatch):
    def fail(*_):
        raise RuntimeError("no | room\nmore")

    with monkeypatch.context() as patch:
        patch.setattr(runs, "score_model", fail)
        assert give(tmp_path, "--only", FIRST, SECOND) == 1
    assert found(tmp_path)["failures"] == {FIRST: "no | room", SECOND: "no | room"}
    assert "failed: no \\| room" in (tmp_path / "page.md").read_text()
    # What was trained is only scored.
    assert give(tmp_path, "--only", FIRST) == 0
    assert len(trained.asked) == 2
    assert set(found(tmp_path)["failures"]) == {SECOND}


def test_a_run_is_done_anew_only_if_it_is_named(tmp_path, trained, capsys):
    give(tmp_path, "--only", FIRST, SECOND)
    give(tmp_path, "--only", FIRST, "--anew")
    assert [config.name for config, _ in trained.asked].count("1.25_mm__96_x_80_x_48__16_5min") == 2
    with pytest.raises(SystemExit):
        give(tmp_path, "--anew")
    assert "--anew needs --only" in capsys.readouterr().err


def test_by_the_clock_minutes_are_those_of_the_run(tmp_path, trained):
    give(tmp_path, "--only", FIRST, "--clock")
    config, _ = trained.asked[0]
    assert (config.training.max_minutes, config.training.max_iterations) == (5, None)
    assert found(tmp_path)["runs"][FIRST]["by"] == "clock"
    assert "302 *clock*" in (tmp_path / "page.md").read_text()


def test_the_plan_is_that_of_the_command_with_its_minutes_counted(tmp_path, trained, monkeypatch):
    given = []

    def run_trivox(words, log, threads):
        given.append((words[0], words[-2:], threads))
        tree = runs.settings_of(HAND_MADE["large_organ"][0], {})
        tree["training"] |= {"max_minutes": 15, "iterations_per_epoch": 33}
        tree |= {"name": "x", "data": {"manifest": words[1], "folds": 4}}
        Path(words[3]).parent.mkdir(parents=True)
        Path(words[3]).write_text(yaml.safe_dump(tree))

    monkeypatch.setattr(runs, "run_trivox", run_trivox)
    give(tmp_path, "--only", "large_organ/plan/15")
    # It is planned for two cores, however many train.
    assert given == [("plan", ["--minutes", "15"], 2)]
    config, _ = trained.asked[0]
    assert (config.training.max_iterations, config.training.iterations_per_epoch) == (1656, 33)
    assert config.data.folds == 4


def test_preparing_measures_again_what_was_measured_on_a_busy_machine(
    tmp_path, trained, monkeypatch
):
    give(tmp_path, "--only", FIRST, "--prepare")
    assert trained.asked == []
    monkeypatch.setattr(runs, "measure_seconds", lambda *_: StepTime(0.25, was_busy=False))
    give(tmp_path, "--only", FIRST, "--prepare")
    give(tmp_path, "--only", FIRST)
    assert list(found(tmp_path)["steps"].values()) == [{"seconds": 0.25, "how": "clock"}]
    assert trained.asked[0][0].training.max_iterations == 1104


def test_nothing_done_and_half_done_make_a_page():
    text = page(Content())
    rows = [line for line in text.splitlines() if line.startswith("| **plan** |")]
    assert len(rows) == 4 + len(HAND_MADE) + 1
    assert all("not run" in row for row in rows)
    assert text.count("\n0 of") == 1


def test_two_processes_keep_what_each_other_found(tmp_path):
    ours, theirs = (Record(tmp_path / "a.json", tmp_path / "lock") for _ in range(2))
    ours.put("failures", "a", "1")
    theirs.put("failures", "b", "2")
    assert ours.read().failures == {"a": "1", "b": "2"}
    ours.put("failures", "b", None)
    assert theirs.read().failures == {"a": "1"}


@pytest.mark.parametrize("data", HAND_MADE)
def test_plans_made_by_hand_can_be_trained(data):
    for plan in HAND_MADE[data]:
        tree = runs.settings_of(plan, COMMON.get(data, {}))
        tree["training"]["max_iterations"] = 1
        RunConfig.model_validate({**tree, "name": "x", "data": {"manifest": "x.yaml"}})
    assert len({plan.name for plan in HAND_MADE[data]}) == len(HAND_MADE[data])
    assert len(HAND_MADE[data]) == (9 if data in ("large_organ", "hippocampus") else 2)


def test_the_plans_of_the_starting_commit_clean_nothing_up():
    for minutes in (SHORT, MIDDLE):
        plan = STARTING_COMMIT["large_organ", minutes]
        assert runs.find_plan(Run("large_organ", "starting commit", minutes)) == plan
        assert runs.settings_of(plan, {})["training"]["search_postprocessing"] is False


def test_the_held_out_fold_is_the_one_that_the_configuration_validates_with(tmp_path):
    root = tmp_path / "hippocampus"
    names = [f"hippocampus_{number:03d}" for number in range(50)]
    for kind in ("imagesTr", "labelsTr"):
        (root / kind).mkdir(parents=True)
        for name in names:
            (root / kind / f"{name}.nii.gz").touch()
    files = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names]
    listed = {"modality": {"0": "MRI"}, "labels": {"0": "background"}, "training": files}
    (root / "dataset.json").write_text(json.dumps({**listed, "test": []}))
    whole = load_manifest(Path("data_manifests/msd_hippocampus.yaml"), root)
    for data, fold in (("hippocampus", 0), ("hippocampus_fold_2", 2)):
        ground = make_ground(data, tmp_path / data, root)
        expected = split_cases(whole, folds=5, fold=fold, seed=0)
        assert [c.name for c in ground.tests()] == [c.name for c in expected.validation]
        split = split_cases(ground.load(), folds=5, fold=0, seed=0)
        assert {c.name for c in (*split.train, *split.validation)} == {
            c.name for c in expected.train
        }
        assert (len(split.train), len(split.validation)) == (36, 4)


def test_the_share_of_steps_leaves_out_waiting_and_validating(tmp_path):
    """100 steps of 0.5 s with their waits in 80 s; a tenth of the first 30 s was waiting."""
    (tmp_path / "resources.json").write_text('{"measured": {"seconds_per_iteration": 0.5}}')
    rows = [
        EpochMetrics(1, 50, 30.0, 1e-3, 0.5, 0.1, None),
        EpochMetrics(2, 100, 80.0, 1e-3, 0.5, 0.0, 0.9),
    ]
    assert runs.share_of_steps(RunFolder(tmp_path), rows) == pytest.approx((50 - 3) / 80)
    assert runs.share_of_steps(RunFolder(tmp_path / "other"), rows) is None
