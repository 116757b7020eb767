"""Segmenting in another process, which may die at any moment."""

import logging
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from pipeline.cohort import run_cohort, segment_cohort
from pipeline.cohort.events import Began, Lost
from pipeline.cohort.own_process import OwnProcess
from pipeline.errors import ModelError, PipelineError
from pipeline.journal import Journal, Row
from pipeline.model import load_model
from pipeline.system.processes import warm_up
from tests.cohort.crash import CrashingJob, DyingJob, FalteringJob, HangingJob, SleepingJob
from tests.workers import gather


def crashing(remote, **how):
    return CrashingJob(remote.request, remote.device, **how)


def rows_of(events):
    return {event.case: event.status for event in events if isinstance(event, Row)}


@pytest.fixture(scope="module", autouse=True)
def warm():
    warm_up()


def test_masks_are_those_of_this_process(remote, studies, tmp_path):
    result = run_cohort(studies, remote.request, lambda: OwnProcess(remote, logging.INFO))
    assert result.counts == {"done": 3, "corrected": 0, "rejected": 0, "failed": 0}
    model = load_model(remote.request.folder, torch.device("cpu"))
    here = tmp_path / "here"
    segment_cohort(studies, model, here, remote.request.options, torch.device("cpu"))
    for case in "abc":
        name = f"{case}_seg.nii.gz"
        assert (remote.request.out / name).read_bytes() == (here / name).read_bytes()


def test_log_lines_arrive_here(remote, studies, caplog):
    with caplog.at_level(logging.INFO):
        run_cohort(studies[:1], remote.request, lambda: OwnProcess(remote, logging.INFO))
    assert any("a: " in line and "million voxels/s" in line for line in caplog.messages)


def test_a_study_that_kills_its_worker_fails_and_the_others_are_done(remote, studies):
    job = crashing(remote, crashes=("b",))
    result = run_cohort(studies, remote.request, lambda: OwnProcess(job, logging.INFO))
    assert {row.case: row.status for row in result.rows} == {
        "a": "done", "b": "failed", "c": "done"
    }  # fmt: skip
    assert result.rows[1].reason.startswith(
        "the worker process was killed (SIGKILL), as the system"
    )
    journal = Journal(remote.request.out, is_reader=True)
    attempts = {entry.name: entry.attempts for entry in journal.entries()}
    journal.close()
    assert attempts["b"] == 2, "once with others, once alone"


def test_what_was_in_hand_is_named_when_a_worker_is_killed(remote, studies):
    workers = OwnProcess(crashing(remote, slow=("b",)), logging.INFO)
    for study in studies:
        workers.give(study)
    gather(workers, lambda events: Began("b", "segment") in events and rows_of(events))
    workers._process.kill()
    (lost,) = [e for e in gather(workers, bool) if isinstance(e, Lost)]
    assert lost.cases == ("b", "c")
    workers.give(studies[0])
    assert rows_of(gather(workers, rows_of)) == {"a": "done"}, "another process goes on"
    workers.close()


def test_stopping_leaves_a_study_in_the_middle_at_once(remote, studies):
    workers = OwnProcess(crashing(remote, slow=("b",)), logging.INFO)
    for study in studies:
        workers.give(study)
    gather(workers, lambda events: Began("b", "segment") in events)
    start = time.monotonic()
    events = workers.close()
    assert time.monotonic() - start < 20
    assert "b" not in rows_of(events)
    assert not workers._process.is_alive()


HUNG_AFTER_S = 4
"""Longer than a process takes to start and load its model, also on a busy machine."""


def test_studies_that_hang_fail_and_the_others_are_done(remote, studies):
    """One that is read ahead while another one is segmented, and both hang: each is found out."""
    job = HangingJob(remote.request, remote.device, in_segment=("b",), in_load=("c",))
    studies = [*studies, replace(studies[0], case="d")]
    result = run_cohort(
        studies, remote.request, lambda: OwnProcess(job, logging.INFO, HUNG_AFTER_S)
    )
    assert {row.case: row.status for row in result.rows} == {
        "a": "done", "b": "failed", "c": "failed", "d": "done"
    }  # fmt: skip
    for row in result.rows[1:3]:
        assert row.reason == (
            "nothing was heard from the worker process for 0.0667 minutes "
            "while it worked on this study alone"
        )


def test_a_model_that_hangs_while_it_loads_is_said(remote, studies):
    workers = OwnProcess(SleepingJob(remote.request, remote.device), logging.INFO, 2)
    workers.give(studies[0])
    with pytest.raises(PipelineError, match=r"could not load the model: nothing was heard"):
        gather(workers, bool)
    assert not workers._process.is_alive()
    workers.close()


def test_a_process_that_waits_for_work_does_not_hang(remote, studies):
    workers = OwnProcess(remote, logging.INFO)
    workers.give(studies[0])
    gather(workers, rows_of)
    process = workers._process
    workers._hung_after_s = 2
    for _ in range(3):
        assert workers.wait() == []
    workers._hung_after_s = HUNG_AFTER_S
    workers.give(studies[1])
    assert rows_of(gather(workers, rows_of)) == {"b": "done"}
    assert workers._process is process
    workers.close()


def test_a_process_that_says_something_now_and_then_does_not_hang(remote, studies):
    workers = OwnProcess(crashing(remote, slow=("a",)), logging.INFO)
    workers.give(studies[0])
    gather(workers, lambda events: Began("a", "segment") in events)
    workers._hung_after_s = 2
    events = gather(workers, lambda events: len(events) > 40)
    assert not any(isinstance(event, Lost) for event in events)
    workers.close()


def test_a_model_that_does_not_load_is_said(remote, tmp_path):
    workers = OwnProcess(
        replace(remote, request=replace(remote.request, folder=tmp_path / "nothing")), logging.INFO
    )
    with pytest.raises(ModelError, match="no model here"):
        gather(workers, bool)
    workers.close()


def test_a_worker_that_dies_while_it_loads_ends_the_run(remote, studies):
    job = DyingJob(remote.request, remote.device)
    with pytest.raises(PipelineError, match=r"could not load the model: .*SIGKILL"):
        run_cohort(studies, remote.request, lambda: OwnProcess(job, logging.INFO))
    journal = Journal(remote.request.out, is_reader=True)
    assert {entry.state for entry in journal.entries()} == {"queued"}
    journal.close()


def test_a_start_that_fails_on_the_way_does_not_end_the_run(remote, studies, tmp_path):
    (tmp_path / "starts").mkdir()
    job = FalteringJob(remote.request, remote.device, crashes=("b",), starts=tmp_path / "starts")
    result = run_cohort(studies, remote.request, lambda: OwnProcess(job, logging.INFO))
    assert [row.status for row in result.rows] == ["done", "failed", "done"]
    assert len(list((tmp_path / "starts").iterdir())) >= 3


PARENT = """
import logging, os, sys, time, pickle
from pathlib import Path
sys.path.insert(0, os.getcwd())
if __name__ == "__main__":
    from pipeline.cohort.own_process import OwnProcess
    remote, study = pickle.loads(Path(sys.argv[1]).read_bytes())
    workers = OwnProcess(remote, logging.INFO)
    workers.give(study)
    while True:
        for event in workers.wait():
            if getattr(event, "stage", "") == "segment":
                print(workers._process.pid, flush=True)
"""


def test_a_worker_ends_when_its_parent_is_killed(remote, studies, tmp_path):
    (tmp_path / "parent.py").write_text(PARENT)
    (tmp_path / "job").write_bytes(pickle.dumps((crashing(remote, slow=("a",)), studies[0])))
    words = [sys.executable, str(tmp_path / "parent.py"), str(tmp_path / "job")]
    repository = Path(__file__).parent.parent.parent
    parent = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=repository)
    worker = psutil.Process(int(parent.stdout.readline()))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    try:
        worker.wait(20)
    except psutil.TimeoutExpired:
        worker.kill()
        pytest.fail("the worker goes on without its parent")
