"""Whole runs: what they leave, and that stopping and resuming changes nothing."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from ignite.engine import Events

from pipeline.errors import ConfigError, ManifestError
from pipeline.inference import native_precision
from pipeline.manifest import load_manifest
from pipeline.model import load_model
from pipeline.system.private import RUN_LOCK, only_run
from pipeline.training import RunFolder, arithmetic, cross_validate, prepare, run, train
from pipeline.training.distributed import Ranks
from pipeline.training.recorder import read_metrics

CPU = torch.device("cpu")
PATIENCE_S = 100

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="child processes are looked up in /proc"
)


@pytest.fixture
def signal_at(monkeypatch):
    """Send a signal to this process at the end of the step of a given iteration."""

    def arm(iteration, number=signal.SIGTERM):
        build = run.build_trainer

        def build_and_arm(*arguments):
            trainer = build(*arguments)
            trainer.add_event_handler(
                Events.ITERATION_COMPLETED(once=iteration), lambda: os.kill(os.getpid(), number)
            )
            return trainer

        monkeypatch.setattr(run, "build_trainer", build_and_arm)

    return arm


@pytest.fixture
def start(tmp_path):
    """Start `trivox train` as a user does, as a process group of its own with one thread."""
    processes = []

    def start_with(config, *words):
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
        command = [sys.executable, "-m", "pipeline", "train", str(path), *words]
        process = subprocess.Popen(
            ["/usr/bin/env", "OMP_NUM_THREADS=1", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield start_with
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(condition, process):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def children_of(process):
    return Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()


def is_gone(pid):
    """Tell whether a process has ended; one that only waits for being reaped has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_run_leaves_model_scores_masks_pictures_and_curves(uninterrupted, split):
    folder = uninterrupted.path
    assert {path.name for path in folder.iterdir()} == {
        ".lock", ".trivox", "arithmetic.json", "checkpoints", "config.yaml", "curves.png",
        "environment.json", "fingerprint.json", "finished.json", "hashes.json", "metrics.csv",
        "model", "resources.json", "split.json", "tensorboard", "validation",
    }  # fmt: skip
    masks = {path.name for path in uninterrupted.validation.glob("*.nii.gz")}
    assert masks == {f"{case.name}_seg.nii.gz" for case in split.validation}
    model = load_model(uninterrupted.model, CPU)
    assert model.description.training["data"] == "phantom_mr"
    assert model.description.inference.window == (16, 16, 16)
    native = native_precision(CPU)
    measured = set() if native == "fp32" else {native}
    assert set(model.description.label_change) == measured
    assert all(0 <= change <= 1 for change in model.description.label_change.values())
    rows = read_metrics(folder / "metrics.csv")
    assert [(row.epoch, row.iteration) for row in rows] == [(1, 5), (2, 10), (3, 12)]
    assert rows[-1].loss < rows[0].loss
    assert all(row.validation_dice is not None for row in rows)


def test_the_model_holds_the_averaged_weights(uninterrupted):
    checkpoint = torch.load(uninterrupted.checkpoint, weights_only=True)
    weights = load_model(uninterrupted.model, CPU).networks[0].state_dict()
    for name, value in weights.items():
        assert torch.equal(value, checkpoint["averaged"][f"module.{name}"])
    assert any(not torch.equal(weights[name], checkpoint["network"][name]) for name in weights)


def test_the_weights_that_give_the_logits_learn_faster(uninterrupted):
    """The head of the smallest network takes 4 features: 512 / 4."""
    optimizer = torch.load(uninterrupted.checkpoint, weights_only=True)["optimizer"]
    groups = {group["lr_factor"]: len(group["params"]) for group in optimizer["param_groups"]}
    num_weights = len(list(load_model(uninterrupted.model, CPU).networks[0].parameters()))
    assert groups == {1.0: num_weights - 2, 128.0: 2}


@pytest.mark.parametrize(
    ("before", "after", "iteration"), [(0, 0, 7), (0, 1, 3), (1, 1, 7), (1, 0, 5), (0, 0, 12)]
)
def test_a_stopped_and_resumed_run_is_the_uninterrupted_one(
    make_config, uninterrupted, outcome, signal_at, tmp_path, before, after, iteration
):
    """Iterations 3 and 7 lie in the middle of an epoch, 5 at the end of one; 12 is the last."""
    signal_at(iteration)
    stopped = train(make_config(tmp_path, f"training.num_workers={before}"))
    assert not stopped.is_finished
    assert not stopped.folder.model.exists()
    assert torch.load(stopped.folder.checkpoint, weights_only=True)["iteration"] == iteration
    result = train(make_config(tmp_path, f"training.num_workers={after}"), resume=True)
    assert result.is_finished
    assert outcome(result.folder) == outcome(uninterrupted)


def test_a_killed_and_resumed_run_is_the_uninterrupted_one(
    make_config, uninterrupted, outcome, start, tmp_path
):
    config = make_config(tmp_path, "training.checkpoint_minutes=1.0e-9", "training.num_workers=1")
    folder = RunFolder(config.folder)
    process = start(config)
    wait_for(folder.checkpoint.exists, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(PATIENCE_S)
    assert 0 < torch.load(folder.checkpoint, weights_only=True)["iteration"] < 12
    train(config, resume=True)
    assert outcome(folder) == outcome(uninterrupted)


def test_a_run_killed_while_its_last_epoch_is_validated_makes_up_for_it(
    make_config, uninterrupted, outcome, monkeypatch, tmp_path
):
    """The validations are those of iterations 5, 10 and 12."""
    quick_dice, calls = run.quick_dice, []

    def die_at_the_third(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return quick_dice(*arguments)

    monkeypatch.setattr(run, "quick_dice", die_at_the_third)
    config = make_config(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    result = train(config, resume=True)
    assert len(calls) == 4
    assert outcome(result.folder) == outcome(uninterrupted)


def test_deterministic_runs_agree_to_the_last_bit_whatever_seems_fastest(
    make_config, outcome, signal_at, monkeypatch, tmp_path
):
    """One run is stopped and resumed; its machine would be fastest with another choice."""
    words = ["deterministic=true", "precision=auto", "layout=auto", "max_iterations=5"]
    words = [f"training.{word}" for word in words]
    monkeypatch.setattr(arithmetic, "_time", lambda options, *_: range(len(options)))
    whole = train(make_config(tmp_path / "whole", *words)).folder
    monkeypatch.setattr(arithmetic, "_time", lambda options, *_: range(len(options), 0, -1))
    signal_at(3)
    config = make_config(tmp_path / "parts", *words)
    assert not train(config).is_finished
    monkeypatch.undo()
    assert outcome(train(config, resume=True).folder) == outcome(whole)


@needs_proc
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_signals_end_a_run_in_order(make_config, start, tmp_path, number):
    """As a terminal and a scheduler do, to the process and its workers at once."""
    config = make_config(tmp_path, "training.max_iterations=100000", "training.num_workers=1")
    folder = RunFolder(config.folder)
    process = start(config)
    wait_for((folder.path / "metrics.csv").exists, process)
    workers = children_of(process)
    assert workers
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, output
    assert f"{number.name}: stopping after this step" in output
    assert "go on with: trivox train" in output
    assert "Traceback" not in output
    assert all(is_gone(worker) for worker in workers)

    iteration = torch.load(folder.checkpoint, weights_only=True)["iteration"]
    budget = f"training.max_iterations={iteration + 2}"
    result = train(make_config(tmp_path, budget, "training.num_workers=0"), resume=True)
    assert result.is_finished
    assert read_metrics(folder.path / "metrics.csv")[-1].iteration == iteration + 2


@needs_proc
def test_workers_do_not_outlive_a_killed_run(make_config, start, tmp_path):
    config = make_config(tmp_path, "training.max_iterations=100000", "training.num_workers=1")
    process = start(config)
    wait_for((config.folder / "metrics.csv").exists, process)
    workers = children_of(process)
    process.kill()
    process.wait(PATIENCE_S)
    deadline = time.monotonic() + PATIENCE_S
    while not all(is_gone(worker) for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_finished_run_resumes_to_the_same_and_a_larger_budget_trains_on(
    make_config, uninterrupted, outcome, tmp_path, monkeypatch
):
    shutil.copytree(uninterrupted.path, tmp_path / "tiny")
    expected = outcome(uninterrupted)
    again = train(make_config(tmp_path), resume=True)
    assert again.is_finished
    assert again.summaries
    assert outcome(again.folder) == expected
    with monkeypatch.context() as patched:
        # Whatever was decided on its post-processing meanwhile stays.
        patched.setattr(run, "save_model", None)
        patched.setattr(run, "validate", None)
        once_more = train(make_config(tmp_path), resume=True)
    means = [[s.mean for s in each.summaries] for each in (again, once_more)]
    np.testing.assert_allclose(*means, atol=1e-6)

    longer = train(make_config(tmp_path, "training.max_iterations=15"), resume=True)
    assert longer.is_finished
    rows = read_metrics(longer.folder.path / "metrics.csv")
    assert [row.iteration for row in rows] == [5, 10, 12, 15]
    assert outcome(longer.folder)["weights"] != expected["weights"]


def test_resume_without_a_run_starts_one(make_config, uninterrupted, outcome, tmp_path):
    assert outcome(train(make_config(tmp_path), resume=True).folder) == outcome(uninterrupted)


def test_the_seed_decides(make_config, uninterrupted, outcome, tmp_path):
    other = train(make_config(tmp_path, "seed=1"))
    assert outcome(other.folder)["metrics"][0] != outcome(uninterrupted)["metrics"][0]


def test_a_run_is_not_overwritten(make_config, uninterrupted):
    with pytest.raises(ConfigError, match=r"exists already.*--resume.*name="):
        train(make_config(uninterrupted.path.parent))


@pytest.mark.parametrize("words", [[], ["data.fold=all", "data.folds=2"]])
def test_a_second_training_in_a_folder_is_refused_and_told_of_the_first(
    make_config, monkeypatch, tmp_path, words
):
    monkeypatch.setattr("pipeline.system.private.PATIENCE_S", 0)
    config = make_config(tmp_path, *words)
    begin = cross_validate if words else train
    first = rf"tiny: another run .*process {os.getpid()} on .*name="
    with only_run(config.folder, lock=RUN_LOCK), pytest.raises(ConfigError, match=first):
        begin(config)
    assert not config.folder.exists()


@pytest.mark.parametrize("overrides", [["training.max_epochs=1"], ["training.max_minutes=1e-6"]])
def test_the_first_budget_that_is_reached_ends_the_run(make_config, tmp_path, overrides):
    result = train(make_config(tmp_path, "training.max_iterations=100", *overrides))
    assert result.is_finished
    expected = 5 if "max_epochs" in overrides[0] else 1
    assert read_metrics(result.folder.path / "metrics.csv")[-1].iteration == expected


def copy_cohort(manifest, folder):
    """Copy a phantom cohort, so that a test may spoil it; return it and the words that name it."""
    copy = folder / "cohort"
    shutil.copytree(manifest.path.parent, copy)
    return copy, ["data.phantom=", "data.root=", f"data.manifest={copy / 'manifest.yaml'}"]


def test_wrong_data_leaves_no_run_behind(make_config, manifest, split, tmp_path):
    """Once the data are mended, the same command works: nothing has to be removed or renamed."""
    cohort, words = copy_cohort(manifest, tmp_path)
    label = cohort / "labels" / f"{split.train[1].name}.nii.gz"
    label.rename(tmp_path / "aside")
    config = make_config(tmp_path, *words, "training.max_iterations=1")
    with pytest.raises(ManifestError, match=r"1 of 15 files are missing.*phantom_001.*data\.root="):
        train(config)
    assert not config.folder.exists()
    (tmp_path / "aside").rename(label)
    assert train(config).is_finished


def test_a_bad_validation_case_stops_the_run_before_training(
    make_config, manifest, split, tmp_path
):
    cohort, words = copy_cohort(manifest, tmp_path)
    label = cohort / "labels" / f"{split.validation[0].name}.nii.gz"
    label.write_bytes(label.read_bytes()[:1000])
    config = make_config(tmp_path, *words)
    with pytest.raises(
        ManifestError, match=r"1 of 5 cases cannot be used; the first: .*phantom_003"
    ):
        train(config)
    assert not config.folder.exists()


def test_cases_that_changed_sides_cannot_be_resumed_with(
    make_config, manifest, signal_at, tmp_path
):
    cohort, words = copy_cohort(manifest, tmp_path)
    config = make_config(tmp_path, *words)
    signal_at(2)
    assert not train(config).is_finished
    table = cohort / "cases.csv"
    lines = table.read_text().splitlines()
    lines[1] = lines[1].replace(",train", ",validation")
    table.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=r"1 cases were added, removed or moved.*'phantom_000'"):
        train(config, resume=True)


def test_a_data_set_without_foreground_is_refused(make_config, manifest, monkeypatch, tmp_path):
    def empty(cases, *_):
        for case, study, label_map in read(cases, *_):
            yield case, study, replace(label_map, labels_IJK=np.zeros_like(label_map.labels_IJK))

    read = prepare.read_cases
    monkeypatch.setattr(prepare, "read_cases", empty)
    with pytest.raises(ManifestError, match=r"no foreground voxel.*trivox check"):
        train(make_config(tmp_path))


def test_a_table_alone_names_no_labels_to_train_on(make_config, manifest, tmp_path):
    table = manifest.path.parent / "cases.csv"
    assert not load_manifest(table).labels
    config = make_config(tmp_path, "data.phantom=", "data.root=", f"data.manifest={table}")
    with pytest.raises(ManifestError, match=r"names no labels to train on.*manifest with labels"):
        train(config)


def test_overlapping_regions_with_ignored_voxels_and_partial_cases(
    workspace, make_config, tmp_path
):
    """Two regions of two labels; one label is ignored, and the first case annotates one only."""
    made = yaml.safe_load((workspace / "cohort" / "manifest.yaml").read_text())
    first, second, *rest = sorted(made["labels"], key=made["labels"].get)
    ignored = made["labels"].pop(rest.pop())
    inner = {"name": "inner", "labels": [second], "writes": second}
    both = {"name": "both", "labels": [first, second], "writes": first}
    made |= {"ignore": ignored, "regions": [both, inner], "cases": str(tmp_path / "cases.csv")}
    header, *rows = (workspace / "cohort" / "cases.csv").read_text().splitlines()
    rows = [f"{row},{second if index == 0 else ''}" for index, row in enumerate(rows)]
    (tmp_path / "cases.csv").write_text("\n".join([f"{header},annotated", *rows]) + "\n")
    (tmp_path / "manifest.yaml").write_text(yaml.safe_dump(made))
    config = make_config(tmp_path, "data.phantom=null", f"data.manifest={tmp_path}/manifest.yaml")
    result = train(config)
    assert {summary.label for summary in result.summaries} == {"both", "inner", "mean"}
    model = load_model(result.folder.model, CPU)
    assert model.description.output_names == ["both", "inner"]
    assert model.description.activation == "sigmoid"
    losses = [row.loss for row in read_metrics(result.folder.path / "metrics.csv")]
    assert losses[-1] < losses[0]


def test_a_network_that_a_gpu_cannot_repeat_is_refused_before_anything_is_written(
    make_config, tmp_path, monkeypatch
):
    monkeypatch.setattr(run, "check_memory", lambda *_: None)
    words = ["network.name=attention_unet", "training.deterministic=true"]
    config = make_config(tmp_path, *words)
    with pytest.raises(ConfigError, match=r"max-pooling in pools\.0 of attention_unet"):
        run.train_fold(config, Ranks(torch.device("cuda")), resume=False)
    assert not config.folder.exists()
