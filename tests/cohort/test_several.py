"""Several processes of this machine; each computes on the CPU, whatever its device is called."""

import logging
import pickle
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path

import psutil
import pytest
import torch

from pipeline.cohort import run_cohort, segment_cohort, several
from pipeline.cohort.events import Alive, Began, Lost, Steps
from pipeline.cohort.several import MAX_ENDS, SeveralProcesses
from pipeline.errors import ModelError, PipelineError
from pipeline.journal import Journal, Row
from pipeline.model import load_model
from pipeline.study import StudyInput
from pipeline.system.processes import warm_up
from tests.cohort.crash import GoneJob, NamedJob, UnfitJob
from tests.workers import gather

CASES = "abcd"


@pytest.fixture(scope="module", autouse=True)
def warm():
    warm_up()


@pytest.fixture
def studies(tmp_path, save_volume):
    return [
        StudyInput(case, (save_volume(tmp_path / "in" / f"{case}.nii.gz", seed),))
        for seed, case in enumerate(CASES)
    ]


@pytest.fixture
def named(remote):
    """Make a job for each device, with what is special about it."""

    def make(*how):
        return [
            kind(remote.request, f"cuda:{index}", len(how), **more)
            for index, (kind, more) in enumerate(how)
        ]

    return make


class Watched(SeveralProcesses):
    """Remembers what happened, and does something when it happens."""

    def __init__(self, jobs, when=lambda _workers, _events: None):
        super().__init__(jobs, logging.INFO)
        self.events, self._when = [], when

    def wait(self):
        events = super().wait()
        self.events += events
        self._when(self, events)
        return events

    def process(self, device):
        (found,) = [each.process for each in self._workers if each.device == device]
        return found._process


def watched(jobs, *when):
    """Return what starts workers, and the list that they will be in."""
    started = []

    def start():
        started.append(Watched(jobs, *when))
        return started[0]

    return start, started


def entries(out):
    journal = Journal(out, is_reader=True)
    found = {entry.name: entry for entry in journal.entries()}
    journal.close()
    return found


def test_two_share_a_cohort_and_leave_what_one_does(named, studies, tmp_path, caplog):
    jobs = named((NamedJob, {}), (NamedJob, {}))
    request = jobs[0].request
    start, started = watched(jobs)
    with caplog.at_level(logging.INFO):
        result = run_cohort(studies, request, start)
    assert result.all_done
    assert [row.case for row in result.rows] == list(CASES)

    model, cpu = load_model(request.folder, torch.device("cpu")), torch.device("cpu")
    segment_cohort(studies, model, tmp_path / "here", request.options, cpu)
    names = {path.name for path in (tmp_path / "here").iterdir()}
    assert {path.name for path in request.out.iterdir()} == names
    for case in CASES:
        name = f"{case}_seg.nii.gz"
        assert (request.out / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    tables = [(out / "volumetry.csv").read_text() for out in (request.out, tmp_path / "here")]
    assert tables[0] == tables[1]
    one, other = entries(request.out), entries(tmp_path / "here")
    assert list(one) == list(other) == list(CASES), "in the order of the studies"
    same = ("state", "stage", "attempts", "sources")
    for case in CASES:
        assert [getattr(one[case], n) for n in same] == [getattr(other[case], n) for n in same]

    devices = {"cuda:0", "cuda:1"}
    assert {event.device for event in started[0].events if isinstance(event, Began)} == devices
    lines = [line for line in caplog.messages if "million voxels/s" in line]
    assert {line.partition(": ")[0] for line in lines} == devices
    assert {line.split(": ")[1] for line in lines} == set(CASES)


@pytest.mark.slow
def test_the_journal_says_on_which_device_a_study_is(named, studies):
    jobs = named((NamedJob, {"slow": CASES}), (NamedJob, {"slow": CASES}))
    stages = {}

    def look(_workers, events):
        if sum(isinstance(e, Began) and e.stage == "segment" for e in workers.events) == 2:
            stages.update({name: entry.stage for name, entry in entries(out).items()})
            raise KeyboardInterrupt

    class Later(Watched):
        """It looks before the next wait, when the journal has what happened."""

        def wait(self):
            look(self, ())
            return super().wait()

    out = jobs[0].request.out
    workers = Later(jobs)
    with pytest.raises(KeyboardInterrupt):
        run_cohort(studies, jobs[0].request, lambda: workers)
    found = {stages["a"], stages["b"]}
    assert found == {"segment on cuda:0", "segment on cuda:1"}
    # Ctrl-C leaves both in the middle, ends them, and the rest is to be done.
    assert {entry.state for entry in entries(out).values()} == {"queued"}
    assert {entry.stage for entry in entries(out).values()} == {""}
    jobs = named((NamedJob, {}), (NamedJob, {}))
    result = run_cohort(studies, jobs[0].request, lambda: SeveralProcesses(jobs, logging.INFO))
    assert result.all_done


@pytest.mark.slow
def test_what_a_process_had_in_hand_when_it_is_killed_is_done_by_the_other(named, studies, caplog):
    jobs = named((NamedJob, {"slow": CASES}), (NamedJob, {}))

    def kill(workers, events):
        if any(e == Began("a", "segment", "cuda:0") for e in events):
            workers.process("cuda:0").kill()

    start, started = watched(jobs, kill)
    result = run_cohort(studies, jobs[0].request, start)
    assert result.all_done
    begun = [e.device for e in started[0].events if isinstance(e, Began) and e.case == "a"]
    assert begun[0] == "cuda:0"
    assert begun[-1] == "cuda:1"
    assert "a: the worker process was killed (SIGKILL)" in caplog.text
    assert entries(jobs[0].request.out)["a"].attempts == 2


@pytest.mark.slow
def test_a_study_that_ends_both_fails_and_the_others_are_done(named, studies):
    jobs = named((NamedJob, {"crashes": ("b",)}), (NamedJob, {"crashes": ("b",)}))
    start, started = watched(jobs)
    result = run_cohort(studies, jobs[0].request, start)
    assert {row.case: row.status for row in result.rows} == dict.fromkeys(CASES, "done") | {
        "b": "failed"
    }
    begun = [e for e in started[0].events if isinstance(e, Began) and e.case == "b"]
    assert {e.device for e in begun} == {"cuda:0", "cuda:1"}, "the second one tried it, too"


def test_a_device_that_cannot_be_used_is_left_out(named, studies, caplog):
    jobs = named((UnfitJob, {}), (NamedJob, {}))
    start, started = watched(jobs)
    assert run_cohort(studies, jobs[0].request, start).all_done
    text = "cuda:0 is left out from now on: device: cuda:0 is not well. Mend it."
    assert [line for line in caplog.messages if "left out" in line] == [text]
    assert started[0].capacity == 3
    assert all(entry.attempts == 1 for entry in entries(jobs[0].request.out).values())


def test_where_no_device_is_left_each_ones_reason_is_said(named, studies):
    jobs = named((UnfitJob, {}), (UnfitJob, {}))
    text = (
        r"^devices: none can be used: cuda:\d: device: cuda:\d is not well\. Mend it\.; cuda:\d: "
    )
    with pytest.raises(PipelineError, match=text) as caught:
        run_cohort(studies, jobs[0].request, lambda: SeveralProcesses(jobs, logging.INFO))
    assert {"cuda:0", "cuda:1"} <= set(re.findall(r"cuda:\d", str(caught.value)))
    assert caught.value.exit_code == 2
    assert {entry.state for entry in entries(jobs[0].request.out).values()} == {"queued"}


def test_what_is_no_matter_of_the_devices_is_said_once(remote, tmp_path):
    broken = replace(remote, request=replace(remote.request, folder=tmp_path / "nothing"))
    workers = SeveralProcesses([broken, broken], logging.INFO)
    with pytest.raises(ModelError, match=r"^[^:]*nothing: no model here"):
        gather(workers, bool)
    workers.close()


def test_a_gpu_that_fails_gives_its_studies_back(named, studies, caplog):
    """Else each study after the first would fail there at once."""
    jobs = named((GoneJob, {}), (NamedJob, {}))
    start, started = watched(jobs)
    assert run_cohort(studies, jobs[0].request, start).all_done
    lost = [event for event in started[0].events if isinstance(event, Lost)]
    assert lost
    assert {e.reason for e in lost} == {"cpu failed: CUDA error: unspecified launch failure"}
    assert "a: cpu failed: CUDA error: unspecified launch failure; it is tried again" in caplog.text


PARENT = """
import logging, os, sys, pickle
from pathlib import Path
sys.path.insert(0, os.getcwd())
if __name__ == "__main__":
    from pipeline.cohort import run_cohort
    from tests.cohort.test_several import Began, Watched
    jobs, studies = pickle.loads(Path(sys.argv[1]).read_bytes())
    def tell(workers, events):
        for event in events:
            if isinstance(event, Began) and event.stage == "segment":
                print(workers.process(event.device).pid, flush=True)
    run_cohort(studies, jobs[0].request, lambda: Watched(jobs, tell))
"""


@pytest.mark.slow
def test_all_end_when_their_parent_is_killed_and_a_later_run_goes_on(named, studies, tmp_path):
    jobs = named((NamedJob, {"slow": "bcd"}), (NamedJob, {"slow": "bcd"}))
    (tmp_path / "parent.py").write_text(PARENT)
    (tmp_path / "job").write_bytes(pickle.dumps((jobs, studies)))
    words = [sys.executable, str(tmp_path / "parent.py"), str(tmp_path / "job")]
    repository = Path(__file__).parent.parent.parent
    parent = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=repository)
    processes = {psutil.Process(int(parent.stdout.readline())) for _ in range(3)}
    assert len(processes) == 2
    out = jobs[0].request.out
    while entries(out)["a"].state != "done":
        assert parent.poll() is None
        time.sleep(0.1)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    _, left = psutil.wait_procs(processes, 20)
    for process in left:
        process.kill()
    assert not left, "they go on without their parent"

    before = {name: entry.state for name, entry in entries(out).items()}
    assert "running" in before.values()
    jobs = named((NamedJob, {}), (NamedJob, {}))
    result = run_cohort(studies, jobs[0].request, lambda: SeveralProcesses(jobs, logging.INFO))
    assert result.all_done
    assert entries(out)["a"].attempts == 1, "what was done is not done again"


# --- Who gets what, by processes that do as they are told ---


class Told:
    """Stands in for a process: what it says next is put into `says`."""

    capacity = 3

    def __init__(self, job, _log_level, _hung_after_s, name):
        assert job.device == name
        self.connection, self._other = Pipe()
        self._other.send("always something to hear")
        self.says, self.in_hand, self.has_ended = [], [], False

    def give(self, study):
        self.in_hand.append(study)

    def look(self, passed_s):
        assert 0 <= passed_s <= 1
        said, self.says = self.says, []
        for event in said:
            if isinstance(event, PipelineError):
                raise event
            cases = getattr(event, "cases", (getattr(event, "case", None),))
            if not isinstance(event, Began):
                self.in_hand = [study for study in self.in_hand if study.case not in cases]
        return said

    def end(self):
        self.has_ended = True


@pytest.fixture
def told(monkeypatch, remote):
    """Return workers of so many devices, and the process of each."""
    monkeypatch.setattr(several, "OwnProcess", Told)

    def make(number):
        jobs = [replace(remote, device=f"cuda:{index}") for index in range(number)]
        workers = SeveralProcesses(jobs, logging.INFO)
        return workers, [each.process for each in workers._workers]

    return make


def study(case):
    return StudyInput(case, ())


def cases(process):
    return [each.case for each in process.in_hand]


def test_who_has_least_to_do_gets_the_next(told):
    workers, processes = told(3)
    assert workers.capacity == 9
    for case in "abcde":
        workers.give(study(case))
    assert [cases(each) for each in processes] == [["a", "d"], ["b", "e"], ["c"]]
    processes[1].says = [Row("b", "done"), Row("e", "rejected", "no")]
    assert workers.wait() == [Row("b", "done"), Row("e", "rejected", "no")]
    workers.give(study("f"))
    assert cases(processes[1]) == ["f"]


def test_events_name_the_device(told):
    workers, processes = told(2)
    processes[1].says = [Began("a", "load"), Steps("windows", 3, 30), Alive()]
    assert workers.wait() == [
        Began("a", "load", "cuda:1"), Steps("windows on cuda:1", 3, 30), Alive()
    ]  # fmt: skip


def test_a_study_is_tried_again_on_another_device_even_if_that_is_busy(told):
    workers, processes = told(2)
    workers.give(study("a"))
    workers.give(study("b"))
    processes[0].says = [Lost(("a",), "killed")]
    assert workers.wait() == [Lost(("a",), "killed")]
    workers.give(study("a"))
    assert [cases(each) for each in processes] == [[], ["b", "a"]]


def test_a_device_that_ends_its_processes_in_a_row_is_left_out_but_for_the_last(told, caplog):
    workers, processes = told(2)

    def lose(process, number):
        for _ in range(number):
            process.says = [Lost((), "cuda:0 failed: ECC")]
            workers.wait()

    lose(processes[0], MAX_ENDS - 1)
    processes[0].says = [Row("z", "done")]
    workers.wait()
    lose(processes[0], MAX_ENDS - 1)
    processes[0].says = [Row("y", "failed", "it cannot tell that the device is sound")]
    workers.wait()
    assert workers.capacity == 6
    workers.give(study("a"))
    lose(processes[0], 1)
    assert workers.capacity == 3
    assert processes[0].has_ended
    assert cases(processes[1]) == ["a"]
    assert caplog.messages == [
        "cuda:0 is left out from now on: cuda:0: its process ended 3 times and no study was done "
        "meanwhile, at last: cuda:0 failed: ECC. See what `nvidia-smi` says of it."
    ]
    lose(processes[1], 2 * MAX_ENDS)
    assert workers.capacity == 3
    processes[1].says = [PipelineError("model", "does not load", "Mend it.")]
    with pytest.raises(PipelineError, match=r"cuda:0: its process ended.*; cuda:1: model: does"):
        workers.wait()
