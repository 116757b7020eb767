"""Runs on clusters of real processes, some of which are killed on the way."""

import collections
import logging
import time
from contextlib import nullcontext, suppress
from dataclasses import replace
from types import SimpleNamespace

import psutil
import pytest
import torch

from pipeline.cluster import DaskWorkers
from pipeline.cluster.config import AddressConfig, LocalConfig
from pipeline.cluster.worker import prepare
from pipeline.cohort import run_cohort, segment_cohort
from pipeline.cohort.events import Began, Lost
from pipeline.errors import PipelineError
from pipeline.journal import Journal, Row
from pipeline.model import load_model
from pipeline.study import StudyInput
from tests.cluster.odd_jobs import OddJob
from tests.workers import gather

CPU = torch.device("cpu")


@pytest.fixture
def odd(remote, tmp_path):
    notes = tmp_path / "notes"
    notes.mkdir()
    return OddJob(remote.request, remote.device, notes=notes)


def entries(out):
    journal = Journal(out, is_reader=True)
    found = {entry.name: entry for entry in journal.entries()}
    journal.close()
    return found


def listening():
    """Sockets that this process and those below it can be connected at."""
    found = set()
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            connections = process.net_connections("inet")
            found |= {c.laddr for c in connections if c.status == psutil.CONN_LISTEN}
    return found


class Watched(DaskWorkers):
    """Looks at its surroundings while it works."""

    def __init__(self, *arguments):
        # Other tests of this process may have servers of their own.
        self._before = listening()
        super().__init__(*arguments)
        self.events, self.listening = [], set()

    def wait(self):
        events = super().wait()
        self.events += events
        if not self.listening and any(isinstance(event, Row) for event in events):
            self.listening = {address.ip for address in listening() - self._before}
        return events


def test_a_cohort_ends_complete_whatever_ends_its_workers(odd, make_studies, tmp_path, caplog):
    """One worker is killed once, one study kills its worker each time, one is broken."""
    studies = make_studies(*"abcd", "once", "always", "e")
    (tmp_path / "DOE_JANE" / "broken.nii.gz").write_bytes(b"")
    studies.append(StudyInput("broken", (tmp_path / "DOE_JANE" / "broken.nii.gz",)))
    out, started = odd.request.out, []

    def start():
        config = LocalConfig(kind="local", workers=2)
        started.append(Watched(odd, config, logging.INFO))
        # Dask silences every handler of its own logger, to which pytest adds this one.
        caplog.handler.setLevel(logging.NOTSET)
        return started[0]

    with caplog.at_level(logging.INFO):
        result = run_cohort(studies, odd.request, start)

    assert result.counts == {"done": 6, "corrected": 0, "rejected": 1, "failed": 1}
    assert [row.case for row in result.rows] == [study.case for study in studies]
    rows = {row.case: row for row in result.rows}
    assert rows["always"].reason == (
        "the worker process ended 2 times while it worked on this study alone"
    )
    assert "file is empty" in rows["broken"].reason

    # The masks are those of one process, and the journal says what the table says.
    here = tmp_path / "here"
    good = [study for study in studies if rows[study.case].status == "done"]
    segment_cohort(good, load_model(odd.request.folder, CPU), here, odd.request.options, CPU)
    for study in good:
        name = f"{study.case}_seg.nii.gz"
        assert (out / name).read_bytes() == (here / name).read_bytes()
    states = {name: entry.state for name, entry in entries(out).items()}
    assert states == {case: row.status for case, row in rows.items()}
    assert not (out / "always_seg.nii.gz").exists()

    # Both workers had a share; what was complete was not done again.
    notes = [path.name.split("-") for path in odd.notes.iterdir()]
    begun = collections.Counter(case for case, *_ in notes)
    assert begun["once"] >= 2
    # Twice among others, and twice alone; more if a worker ended before it was heard that it began.
    assert begun["always"] <= 6
    assert len({pid for case, pid, _ in notes if case not in ("once", "always")}) > 1

    (workers,) = started
    stages = [e.stage for e in workers.events if isinstance(e, Began) and e.case == "a"]
    # A worker that ended while it had this study in hand made it begin again.
    assert "load segment write" in " ".join(stages)
    assert workers.listening == {"127.0.0.1"}, "nobody else can connect"
    assert any("million voxels/s" in text for text in caplog.messages), "the workers' log arrives"
    assert "DOE_JANE" not in caplog.text
    assert not list((out / ".trivox").glob("trivox-*")), "what the workers look for is gone"


def test_stopped_it_drops_what_is_in_hand_at_once_and_can_go_on(odd, make_studies, started_cluster):
    """The second run meets the worker that the first one left."""
    slow, *others = make_studies("slow", "a", "b")
    config = AddressConfig(address=started_cluster.scheduler_address)
    workers = DaskWorkers(odd, config, logging.INFO)
    for study in (slow, *others):
        workers.give(study)
    gather(workers, lambda events: Began("slow", "segment") in events)
    start = time.monotonic()
    assert workers.close() == []
    assert time.monotonic() - start < 10
    assert not list(odd.request.out.glob("*_seg.*"))

    result = run_cohort(others, odd.request, lambda: DaskWorkers(odd, config, logging.INFO))
    assert result.all_done


class Mute:
    """A scheduler whose workers take studies, and end before anything is heard of them."""

    def __init__(self, config, private):
        self.run, self.witness, self.number, self.ready = "run", private, 0, []

    def watched(self):
        return nullcontext()

    def workers(self):
        return {f"worker {self.number}"}

    def ask(self, worker, name, function, *_, **__):
        answer = SimpleNamespace(
            cancelled=lambda: False, exception=lambda timeout: None, result=lambda timeout: None,
            cancel=lambda: None,
        )  # fmt: skip
        if function is prepare:
            self.ready.append((name, answer))
        return answer

    def messages(self):
        while self.ready:
            yield self.ready.pop()


def test_studies_at_workers_that_end_unheard_are_not_tried_for_ever(
    remote, make_studies, monkeypatch
):
    monkeypatch.setattr("pipeline.cluster.workers.Scheduler", Mute)
    monkeypatch.setattr("pipeline.cluster.workers.LOOK_EVERY_S", 0)
    workers = DaskWorkers(remote, LocalConfig(kind="local", workers=1), logging.INFO)
    for study in make_studies("a", "b"):
        workers.give(study)
    events = []
    for number in range(10):
        workers._scheduler.number = number // 2
        events += workers.wait()
    reason = "the worker process ended 2 times"
    assert sorted(events, key=lambda lost: lost.cases) == [
        Lost(("a",), reason),
        Lost(("b",), reason),
    ]


class Hanging(Mute):
    """Two workers; the first takes a study and says nothing more."""

    def __init__(self, config, private):
        super().__init__(config, private)
        self.present, self.dropped, self.asked = {"tls://h:1": 1, "tls://h:2": 2}, [], []

    def workers(self):
        return self.present.keys()

    def drop(self, worker):
        self.dropped.append(worker)
        del self.present[worker]

    def ask(self, worker, name, function, *rest, **more):
        answer = super().ask(worker, name, function, *rest, **more)
        if function is not prepare:
            self.asked.append((worker, name))
            if worker == "tls://h:2":
                answer.result = lambda timeout: Row(name, "done")
                self.ready.append((name, answer))
        return answer


def test_what_a_worker_holds_that_says_nothing_is_given_to_others(
    remote, make_studies, monkeypatch, caplog
):
    monkeypatch.setattr("pipeline.cluster.workers.Scheduler", Hanging)
    monkeypatch.setattr("pipeline.cluster.workers.LOOK_EVERY_S", 0)
    config = LocalConfig(kind="local", workers=2)
    workers = DaskWorkers(remote, config, logging.INFO, hung_after_s=0.3)
    studies = make_studies("a", "b", "c", "d")
    for study in studies:
        workers.give(study)
    start = time.monotonic()
    while time.monotonic() - start < 0.2:
        workers.wait()
    # A sign of life counts, whatever it says.
    workers._scheduler.ready.append({"alive": "tls://h:1"})
    events = gather(workers, lambda events: workers._scheduler.dropped)
    assert time.monotonic() - start >= 0.4
    events += gather(workers, lambda events: not workers._tasks)
    assert workers._scheduler.dropped == ["tls://h:1"]
    assert {case for worker, case in workers._scheduler.asked if worker == "tls://h:2"} == {*"abcd"}
    assert not any(isinstance(event, Lost) for event in events), "none is to blame yet"
    assert "the worker at h:1 says nothing for 0.005 minutes" in caplog.text


def test_no_worker_that_fits_ends_the_run_and_says_why(remote, make_studies, started_cluster):
    request = replace(remote.request, sha256="0" * 64)
    config = AddressConfig(address=started_cluster.scheduler_address)
    with pytest.raises(PipelineError, match="the model is not the one that the run began with"):
        run_cohort(
            make_studies("a"),
            request,
            lambda: DaskWorkers(replace(remote, request=request), config, logging.INFO),
        )
    assert entries(request.out)["a"].state == "queued"


def test_inputs_that_workers_do_not_see_are_no_reason_to_reject(
    remote, make_studies, started_cluster, monkeypatch
):
    """The study is not where the worker looks, but it was found where the run began."""
    config = AddressConfig(address=started_cluster.scheduler_address)
    (study,) = make_studies("a")
    workers = DaskWorkers(remote, config, logging.INFO)
    send = workers._scheduler.ask

    def hide(*words, **more):
        if more:
            study.sources[0].unlink()
        return send(*words, **more)

    monkeypatch.setattr(workers._scheduler, "ask", hide)
    workers.give(study)
    with pytest.raises(PipelineError, match="Mount the folders of the inputs there"):
        gather(workers, lambda events: events)
    workers.close()


def test_a_worker_that_comes_late_takes_part(odd, make_studies, own_cluster):
    config = AddressConfig(address=own_cluster.scheduler_address)
    workers = DaskWorkers(odd, config, logging.INFO)
    assert workers.capacity == 3
    workers.give(make_studies("slow")[0])
    gather(workers, lambda events: Began("slow", "segment") in events)
    own_cluster.scale(2)
    for study in make_studies("a", "b", "c", "d", "e"):
        workers.give(study)
    deadline = time.monotonic() + 60
    while workers.capacity == 3:
        assert time.monotonic() < deadline
        workers.wait()
    assert workers.capacity == 6
    found = gather(workers, lambda events: any(isinstance(event, Row) for event in events))
    assert next(event for event in found if isinstance(event, Row)).status == "done"
    workers.close()


def test_a_scheduler_that_is_gone_is_named_and_nothing_is_lost(odd, make_studies, own_cluster):
    config = AddressConfig(address=own_cluster.scheduler_address)
    studies = make_studies("a", "slow")

    class Closing(DaskWorkers):
        def wait(self):
            events = super().wait()
            if any(isinstance(event, Row) for event in events):
                own_cluster.close()
            return events

    with pytest.raises(PipelineError, match=r"the Dask scheduler: it is gone\. Start it again"):
        run_cohort(studies, odd.request, lambda: Closing(odd, config, logging.INFO))
    found = entries(odd.request.out)
    assert (found["a"].state, found["slow"].state) == ("done", "queued")
