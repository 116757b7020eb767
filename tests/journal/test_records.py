import pytest

from pipeline.errors import PipelineError
from pipeline.journal import Entry, Row, RunRecord, damage_named

STUDY = {
    "name": "a", "state": "done", "stage": "", "since_utc": "2026-01-01T00:00:00+00:00",
    "attempts": 2, "signature": "f00", "sources": '["/x/a.nii"]', "reason": "", "cause": "",
    "seconds": '{"load": 1.5}', "total_s": 2.5, "volumes_ml": '{"liver": 3.0}',
}  # fmt: skip


def test_a_study_that_ended_has_a_row():
    entry = Entry.of(STUDY)
    assert entry.row == Row("a", "done", "", {"load": 1.5}, 2.5, {"liver": 3.0})
    assert entry.sources == ("/x/a.nii",)
    assert (entry.attempts, entry.signature) == (2, "f00")


@pytest.mark.parametrize("state", ["queued", "running"])
def test_a_study_that_has_not_ended_has_none(state):
    entry = Entry.of(STUDY | {"state": state})
    assert (entry.row, entry.state) == (None, state)


RUN = {
    "id": 3, "started_utc": "2026-01-01T00:00:00+00:00", "ended_utc": None, "host": "h", "pid": 7,
    "seen_utc": "2026-01-01T00:00:01+00:00", "request": '{"model": "tiny"}',
}  # fmt: skip


def test_a_run_knows_what_was_asked_for():
    run = RunRecord.of(RUN)
    assert (run.number, run.host, run.pid, run.request) == (3, "h", 7, {"model": "tiny"})
    assert (run.started_utc, run.seen_utc) == (RUN["started_utc"], RUN["seen_utc"])


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("state", "finished"), ("name", b"a"), ("since_utc", "yesterday"),
        ("since_utc", "2026-01-01T00:00:00"), ("attempts", "many"), ("sources", '{"a": 1}'),
        ("sources", "[1]"), ("seconds", "[1]"), ("seconds", '{"load": "long"}'),
        ("total_s", float("inf")), ("volumes_ml", '{"liver": NaN}'), ("warnings", "1"),
        ("reason", 7), ("seconds", "[" * 3000),
    ],
)  # fmt: skip
def test_what_trivox_does_not_write_is_told_and_not_used(column, value, tmp_path):
    """Journals of earlier versions have no digests, which would tell before."""
    with pytest.raises(PipelineError, match="Rename it"), damage_named(tmp_path):
        Entry.of(STUDY | {column: value})


@pytest.mark.parametrize(
    ("column", "value"),
    [("id", "x"), ("started_utc", ""), ("seen_utc", None), ("ended_utc", "2026"), ("request", "1")],
)
def test_neither_is_it_of_runs(column, value, tmp_path):
    with pytest.raises(PipelineError, match="Rename it"), damage_named(tmp_path):
        RunRecord.of(RUN | {column: value})
