"""Who does what next, and what the journal says of it, with workers that do as they are told."""

import errno
import shutil
from dataclasses import replace

import pytest

from pipeline.cohort import supervisor
from pipeline.cohort.events import SHOWN_STEPS, Began, Lost, Steps
from pipeline.cohort.supervisor import Supervisor
from pipeline.errors import PipelineError
from pipeline.journal import Journal, Row, only_run
from pipeline.output.places import Outputs
from pipeline.study import StudyConfig, StudyInput
from pipeline.system.progress import make_progress


class Told:
    """Workers whose answer to each study is written in advance; what is not is done.

    An answer is a row, the reason why the worker is lost, or an error to raise.
    """

    def __init__(self, out, capacity=2, **answers):
        self.capacity, self._out, self._answers = capacity, out, answers
        self._given, self.order, self.together, self.is_closed = [], [], [], False

    def __call__(self):
        return self

    def give(self, study):
        self._given.append(study.case)
        self.order.append(study.case)
        self.together.append(len(self._given))

    def wait(self):
        case = self._given[0]
        answer = self._answers.get(case, Row(case, "done"))
        if isinstance(answer, BaseException):
            raise answer
        if isinstance(answer, str):
            lost, self._given = tuple(self._given), []
            return [Began(case, "load"), Lost(lost, answer)]
        del self._given[0]
        if answer.status == "done":
            outputs = Outputs(self._out, case)
            outputs.mask.write_text(case)
            outputs.provenance.write_text(case)
        return [Began(case, "load"), answer]

    def close(self):
        self.is_closed = True
        return [Row(case, "done") for case in self._given[:1]]


@pytest.fixture
def request_(remote):
    return remote.request


@pytest.fixture
def journal(request_):
    journal = Journal(request_.out)
    yield journal
    journal.close()


@pytest.fixture
def held(request_):
    with only_run(request_.out) as held:
        yield held


@pytest.fixture
def supervise(request_, journal, studies, held):
    def run(workers, request=request_, studies=studies):
        number = journal.begin_run("host", 1, request.as_record())
        return Supervisor(studies, request, journal, number, make_progress(), held).run(workers)

    return run


def states(journal):
    return {entry.name: entry.state for entry in journal.entries()}


def test_all_are_done_and_entered(supervise, journal, request_):
    workers = Told(request_.out)
    rows = supervise(workers)
    assert [row.case for row in rows] == ["a", "b", "c"]
    assert states(journal) == {"a": "done", "b": "done", "c": "done"}
    assert workers.is_closed
    assert max(workers.together) == 2, "no more than they can take"
    assert (request_.out / "cohort.csv").read_text().count("done") == 3


def test_workers_are_not_started_for_nothing(supervise, request_):
    supervise(Told(request_.out))

    def never():
        raise AssertionError("started")

    rows = supervise(never)
    assert {row.reason for row in rows} == {"already complete"}


@pytest.mark.parametrize("what", ["input", "mask", "provenance", "settings"])
def test_what_has_changed_is_done_again(supervise, request_, studies, what):
    supervise(Told(request_.out))
    outputs, request = Outputs(request_.out, "b"), request_
    if what == "settings":
        description = request.description.model_copy(
            update={"study": StudyConfig(non_finite="repair")}
        )
        request = replace(request, description=description)
    else:
        path = {
            "input": studies[1].sources[0], "mask": outputs.mask, "provenance": outputs.provenance
        }[what]  # fmt: skip
        path.write_bytes(path.read_bytes() + b"x")
    workers = Told(request.out)
    supervise(workers, request)
    assert workers.order == (["a", "b", "c"] if what == "settings" else ["b"])


def test_a_rejected_study_is_not_read_again_until_it_changes(supervise, request_, studies):
    rejected = {"b": Row("b", "rejected", "b.nii.gz: no")}
    supervise(Told(request_.out, **rejected))
    again = Told(request_.out)
    rows = supervise(again)
    assert again.order == []
    assert (rows[1].status, rows[1].reason) == ("rejected", "b.nii.gz: no")
    studies[1].sources[0].write_bytes(b"other")
    supervise(again)
    assert again.order == ["b"]


@pytest.mark.parametrize(
    "row", [Row("b", "failed", "odd"), Row("b", "rejected", "share", cause="transient")]
)
def test_what_may_do_another_time_is_tried_again(supervise, request_, row):
    supervise(Told(request_.out, b=row))
    again = Told(request_.out)
    supervise(again)
    assert again.order == ["b"]


def test_a_lost_study_is_tried_alone_and_then_fails(supervise, journal, request_):
    """The innocent one beside it is done."""
    workers = Told(request_.out, a="it crashed")
    rows = supervise(workers)
    assert workers.order == ["a", "b", "c", "a", "b"]
    assert workers.together[-2:] == [1, 1], "alone"
    assert [(row.case, row.status) for row in rows] == [
        ("a", "failed"), ("b", "done"), ("c", "done")
    ]  # fmt: skip
    assert rows[0].reason == "it crashed while it worked on this study alone"
    assert states(journal) == {"a": "failed", "b": "done", "c": "done"}
    assert [entry.attempts for entry in journal.entries()] == [2, 2, 1]


def test_what_a_killed_run_was_at_comes_last_and_alone(supervise, journal, request_, studies):
    """It may be what killed it."""
    run = journal.begin_run("host", 1, {})
    journal.ask_for(run, {study.case: [] for study in studies})
    journal.begin("a")
    workers = Told(request_.out, a="it crashed")
    rows = supervise(workers)
    assert workers.order == ["b", "c", "a"]
    assert rows[0].status == "failed"


def test_an_interruption_enters_what_ended_and_queues_the_rest(supervise, journal, request_):
    workers = Told(request_.out, b=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        supervise(workers)
    assert workers.is_closed
    assert states(journal) == {"a": "done", "b": "done", "c": "queued"}, "b was being written"
    assert (request_.out / "cohort.csv").read_text().count("done") == 2
    assert journal.last_run().ended_utc is not None


def test_tables_that_find_no_room_stop_the_run_too(supervise, journal, request_, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(supervisor, "write_tables", full)
    with pytest.raises(PipelineError, match=r"3 of 3 studies ended; .*No space.*Free space"):
        supervise(Told(request_.out))
    assert set(states(journal).values()) == {"done"}


def test_a_full_disk_stops_the_run_and_blames_no_study(supervise, journal, request_, studies):
    full = Row("b", "failed", "no space", cause="disk_full")
    workers = Told(request_.out, capacity=1, b=full)
    with pytest.raises(PipelineError, match="1 of 3 studies ended; then: no space"):
        supervise(workers)
    assert states(journal) == {"a": "done", "b": "queued", "c": "queued"}
    assert {row.status for row in supervise(Told(request_.out))} == {"done"}


def test_studies_of_other_runs_stay_in_the_tables(supervise, request_, tmp_path, save_volume):
    supervise(Told(request_.out))
    other = StudyInput("z", (save_volume(tmp_path / "z.nii.gz"),))
    rows = supervise(Told(request_.out), studies=[other])
    assert [row.case for row in rows] == ["z"]
    lines = (request_.out / "cohort.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["case", "a", "b", "c", "z"]


def test_a_study_of_many_steps_has_a_bar_of_its_own(request_, journal, studies, held):
    progress = make_progress()
    seen = []

    class Stepping(Told):
        def wait(self):
            half, total = SHOWN_STEPS, 2 * SHOWN_STEPS
            events = [Steps("windows", half, total), Steps("windows", total, total)]
            return [*events, *super().wait()]

    number = journal.begin_run("host", 1, {})
    supervisor = Supervisor(studies, request_, journal, number, progress, held)
    update = progress.update
    progress.update = lambda task, **what: (
        seen.append([t.description for t in progress.tasks]), update(task, **what)
    )  # fmt: skip
    supervisor.run(Stepping(request_.out))
    assert ["Segmenting", "  windows"] in seen
    assert [task.description for task in progress.tasks] == ["Segmenting"]
    assert progress.tasks[0].completed == 3


@pytest.mark.parametrize("moved", [False, True])
def test_a_namesake_elsewhere_is_told_before_its_mask_is_replaced(
    supervise, request_, studies, tmp_path, save_volume, caplog, moved
):
    supervise(Told(request_.out))
    if moved:
        studies[0].sources[0].unlink()
    other = StudyInput("a", (save_volume(tmp_path / "ward 2" / "a.nii.gz", seed=9),))
    supervise(Told(request_.out), studies=[other])
    assert ("1 studies have the names of others" in caplog.text) != moved
    assert "ward 2" not in caplog.text


def test_the_same_studies_again_are_no_namesakes(supervise, request_, caplog):
    supervise(Told(request_.out))
    supervise(Told(request_.out))
    assert "names of others" not in caplog.text


@pytest.mark.parametrize("what", ["out", ".trivox", ".trivox/journal.sqlite", ".trivox/lock"])
@pytest.mark.parametrize("how", ["removed", "moved", "replaced"])
def test_a_folder_that_is_no_longer_the_one_begun_in_stops_the_run(
    supervise, request_, tmp_path, what, how
):
    out = request_.out
    path = out if what == "out" else out / what

    class Losing(Told):
        def wait(self):
            events = super().wait()
            if len(self.order) == 2:
                path.rename(tmp_path / "moved")
                if how == "removed":
                    remove(tmp_path / "moved")
                if how == "replaced" and path.name == "lock":
                    path.touch()
                elif how == "replaced":
                    shutil.copytree(out_before, out, dirs_exist_ok=True)
            return events

    out_before = tmp_path / "before"
    shutil.copytree(out, out_before)
    workers = Losing(out)
    with pytest.raises(PipelineError, match="removed, moved or replaced") as stopped:
        supervise(workers)
    assert stopped.value.exit_code == 1
    assert str(out) in str(stopped.value)
    assert workers.is_closed
    assert len(workers.order) == 2, "nothing more was begun"
    assert not (out / "cohort.csv").exists()


def remove(path):
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def test_nothing_is_called_done_whose_mask_is_gone(supervise, request_, journal):
    out = request_.out

    class Removing(Told):
        def close(self):
            return []

        def wait(self):
            events = super().wait()
            Outputs(out, "a").mask.unlink(missing_ok=True)
            return events

    rows = supervise(Removing(out))
    assert [row.status for row in rows] == ["failed", "done", "done"]
    assert "removed while the run went on" in rows[0].reason
    table = (out / "cohort.csv").read_text()
    assert "a,failed" in table
    assert [row.status for row in supervise(Told(out))] == ["done"] * 3


def test_studies_of_earlier_runs_are_called_done_as_long_as_their_masks_are_there(
    supervise, request_, studies
):
    supervise(Told(request_.out))
    Outputs(request_.out, "a").mask.unlink()
    supervise(Told(request_.out), studies=studies[1:])
    table = (request_.out / "cohort.csv").read_text()
    assert "a,done" not in table
    assert "b,done" in table
