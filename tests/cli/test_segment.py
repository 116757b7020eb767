"""`trivox segment` as a process that is killed, and `trivox status` of what it leaves."""

import csv
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from pipeline.cli.main import main
from pipeline.cohort import own_process, several
from pipeline.errors import PipelineError
from pipeline.journal import Journal
from pipeline.model import save_model
from tests.tiny import tiny_model

REPOSITORY = Path(__file__).parents[2]
NUM_GOOD, NUM_BROKEN, NUM_KILLS = 18, 4, 2


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_model(tiny_model(), folder)
    return folder


def write_volume(path, seed):
    voxels = np.random.default_rng(seed).normal(100, 20, (24, 24, 24)).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """A folder of good studies with broken ones among them."""
    folder = tmp_path_factory.mktemp("cohort")
    for number in range(NUM_GOOD):
        write_volume(folder / f"good{number:02d}.nii.gz", number)
    whole = (folder / "good00.nii.gz").read_bytes()
    (folder / "broken0.nii.gz").write_bytes(b"")
    (folder / "broken1.nii.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "broken2.nii").write_text("this is no volume")
    nib.save(nib.Nifti1Image(np.ones((9, 9, 9), np.float32), np.eye(4)), folder / "broken3.nii.gz")
    return folder


def start(cohort, model, out):
    words = ["segment", str(cohort), "--model", str(model), "--out", str(out), "--device", "cpu"]
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", *words],
        cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def states(out):
    journal = Journal(out, is_reader=True)
    found = {entry.name: entry.state for entry in journal.entries()}
    journal.close()
    return found


def stamps(out):
    """When each finished mask was written."""
    return {
        path.name: path.stat().st_mtime_ns
        for path in out.glob("*_seg.nii.gz")
        if path.with_name(path.name.replace(".nii.gz", ".json")).exists()
    }


def test_a_cohort_that_is_killed_again_and_again_ends_complete(cohort, model, tmp_path):
    """Nothing torn, nothing that was complete done again, everything explained."""
    out, rng = tmp_path / "out", random.Random(0)
    finished: dict[str, int] = {}
    for _ in range(NUM_KILLS):
        process = start(cohort, model, out)
        wait_for_a_new_mask(out, len(finished), process)
        time.sleep(rng.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
        for path in out.glob("*_seg.nii.gz"):
            nib.load(path).get_fdata()
        before, finished = finished, stamps(out)
        assert before.items() <= finished.items(), "a complete result was done again"
    process = start(cohort, model, out)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1, errors
    assert finished.items() <= stamps(out).items()
    assert sum(state == "done" for state in states(out).values()) == NUM_GOOD
    assert sum(state == "rejected" for state in states(out).values()) == NUM_BROKEN
    with (out / "cohort.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == NUM_GOOD + NUM_BROKEN
    assert all(row["reason"] for row in rows if row["status"] == "rejected")
    assert not list(out.rglob(".writing-*")), "what was half written is swept away"


def wait_for_a_new_mask(out, num_before, process):
    deadline = time.monotonic() + 60
    while len(stamps(out)) <= num_before and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_ctrl_c_ends_at_once_and_the_same_command_goes_on(cohort, model, tmp_path, capsys):
    out = tmp_path / "out"
    process = start(cohort, model, out)
    wait_for_a_new_mask(out, 0, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again to go on" in errors
    assert "Traceback" not in errors
    assert set(states(out).values()) <= {"done", "queued", "rejected"}
    words = ["segment", str(cohort), "--model", str(model), "--out", str(out), "--device", "cpu"]
    assert main(words) == 1
    printed = capsys.readouterr().out
    assert f"{NUM_GOOD + NUM_BROKEN} studies: {NUM_GOOD} done, {NUM_BROKEN} rejected" in printed
    assert main(["status", str(out)]) == 1
    printed = capsys.readouterr().out
    assert "22 studies: 0 queued, 0 running, 18 done, 4 rejected, 0 failed" in printed
    assert "broken0.nii.gz: file is empty" in printed
    assert main(["status", str(out), "--sources"]) == 1
    assert str(cohort / "good00.nii.gz") in capsys.readouterr().out


@pytest.mark.parametrize(("words", "seconds"), [([], 3600), (["--hung-after", "0.5"], 30)])
def test_how_long_a_process_may_be_silent_can_be_said(
    cohort, model, tmp_path, monkeypatch, words, seconds
):
    asked = []

    def refuse(_remote, _log_level, hung_after_s):
        asked.append(hung_after_s)
        raise PipelineError("here", "no process today", "Come again.")

    monkeypatch.setattr(own_process, "OwnProcess", refuse)
    out = str(tmp_path / "out")
    assert main(["segment", str(cohort), "--model", str(model), "--out", out, *words]) == 2
    assert asked == [seconds]


@pytest.mark.parametrize(
    ("word", "devices"),
    [
        ("--devices=all", ["cuda:0", "cuda:1", "cuda:2"]),
        ("--device=cuda:2,cuda:0", ["cuda:2", "cuda:0"]),
    ],
)
def test_several_gpus_get_a_process_each(cohort, model, tmp_path, monkeypatch, word, devices):
    asked = []

    def refuse(remotes, _log_level, hung_after_s):
        asked.extend((each.device, each.num_processes, hung_after_s) for each in remotes)
        raise PipelineError("here", "no processes today", "Come again.")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(several, "SeveralProcesses", refuse)
    words = ["segment", str(cohort), "--model", str(model), "--out", str(tmp_path / "out"), word]
    assert main(words) == 2
    assert asked == [(device, len(devices), 3600) for device in devices]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--devices", "all"], "device: 'all', but "),
        (["--devices", "cuda:0,cuda:1"], "device: 'cuda:0,cuda:1', but "),
        (["--devices", "cuda:0,cpu"], "device: 'cuda:0,cpu' is no list of GPUs"),
        (["--devices", "all", "--cluster", "tcp://h:1"], "--device: 'all' is for this machine"),
    ],
)
def test_gpus_that_are_not_there_are_told_before_any_study(
    cohort, model, tmp_path, monkeypatch, capsys, words, found
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    out = tmp_path / "out"
    words = ["segment", str(cohort), "--model", str(model), "--out", str(out), *words]
    assert main(words) == 2
    assert found in capsys.readouterr().err
    assert not out.exists()


def test_no_time_at_all_is_wrong_usage(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["segment", "in", "--model", "m", "--out", "o", "--hung-after", "0"])
    assert ended.value.code == 2
    assert "--hung-after" in capsys.readouterr().err


def test_status_of_a_folder_without_a_run_says_so(tmp_path, capsys):
    assert main(["status", str(tmp_path)]) == 2
    assert "Give the folder that `trivox segment` writes to" in capsys.readouterr().err
