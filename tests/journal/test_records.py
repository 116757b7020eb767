import pytest

from pipeline.journal import Entry, Row, RunRecord

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


def test_a_run_knows_what_was_asked_for():
    found = {
        "id": 3, "started_utc": "s", "seen_utc": "t", "ended_utc": None, "host": "h", "pid": 7,
        "request": '{"model": "tiny"}',
    }  # fmt: skip
    assert RunRecord.of(found) == RunRecord(3, "s", "t", None, "h", 7, {"model": "tiny"})
