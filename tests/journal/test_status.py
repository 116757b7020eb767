import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from pipeline.errors import PipelineError
from pipeline.journal import (
    PRIVATE,
    CohortStatus,
    Entry,
    Journal,
    Row,
    RunRecord,
    read_status,
)

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


def ago(seconds):
    return (NOW - timedelta(seconds=seconds)).isoformat(timespec="milliseconds")


def entry(name, state, since_s=10.0, reason="", stage="", warnings=()):
    row = None
    if state not in ("queued", "running"):
        row = Row(name, state, reason, warnings=warnings)
    return Entry(name, row, state, stage, ago(since_s), 1, "", (f"/in/{name}.nii",))


def make(out, *entries, is_running=True, ended=None):
    run = RunRecord(1, ago(100), ago(3), ended, "node7", 42, {})
    return CohortStatus(out, run, entries, is_running, NOW)


def text_of(status):
    console = Console(file=io.StringIO(), width=150)
    for line in status.lines():
        console.print(line)
    return console.file.getvalue()


def test_it_counts_and_foretells(tmp_path):
    """Two of five ended in 100 s, so the other three take 150 s."""
    found = make(
        tmp_path, entry("a", "done"), entry("b", "failed", reason="out of memory"),
        entry("c", "running", stage="segment"), entry("d", "queued"), entry("e", "queued"),
    )  # fmt: skip
    assert found.counts == {
        "queued": 2,
        "running": 1,
        "done": 1,
        "corrected": 0,
        "rejected": 0,
        "failed": 1,
    }
    assert found.remaining == timedelta(seconds=150)
    text = text_of(found)
    assert "5 studies: 2 queued, 1 running, 1 done, 0 rejected, 1 failed" in text
    assert "about 2 min 30 s to go" in text
    assert "is running (process 42 on node7), last entry 3 s ago" in text
    assert "segment" in text
    assert "out of memory" in text
    assert not found.is_well


def test_nothing_is_promised_where_nothing_ends_any_more(tmp_path):
    """Two ended in the first 20 s of a run, and none in the 80 s since."""
    entries = entry("a", "done", since_s=90), entry("b", "done", since_s=80)
    found = make(tmp_path, *entries, entry("c", "running", stage="segment"))
    assert found.remaining is None
    assert "to go" not in text_of(found)
    assert "cannot be told: no study has ended for a while" in text_of(found)


def test_studies_that_ended_in_an_earlier_run_do_not_count_as_speed(tmp_path):
    found = make(tmp_path, entry("a", "done", since_s=5000), entry("b", "queued"))
    assert found.remaining is None


def test_a_killed_run_is_called_so(tmp_path):
    found = make(tmp_path, entry("a", "running"), is_running=False)
    assert "was killed; the same command goes on" in text_of(found)
    assert not found.is_well
    ended = make(tmp_path, entry("a", "done"), is_running=False, ended=ago(5))
    assert "ended 5 s ago" in text_of(ended)
    assert ended.is_well


def test_many_reasons_are_cut(tmp_path):
    found = make(tmp_path, *(entry(f"s{i}", "rejected", reason="bad") for i in range(25)))
    text = text_of(found)
    assert "s19" in text
    assert "s20" not in text
    assert "and 5 more; see" in text


def test_what_was_odd_about_done_studies_and_what_was_corrected_is_told(tmp_path):
    found = make(
        tmp_path, entry("a", "done"), entry("b", "done", warnings=("volume: small.", "flip: so.")),
        entry("c", "corrected"), is_running=False, ended=ago(5),
    )  # fmt: skip
    text = text_of(found)
    assert "3 studies: 0 queued, 0 running, 2 done (1 with warnings), 1 corrected, 0 rej" in text
    assert "volume: small. flip: so." in text
    assert found.is_well


def test_sources_only_on_request(tmp_path):
    found = make(tmp_path, entry("a", "done"))
    assert "/in/a.nii" not in text_of(found)
    assert found.sources() == ["a: /in/a.nii"]


def test_it_is_read_from_the_journal_of_the_last_run(tmp_path):
    (tmp_path / PRIVATE).mkdir()
    journal = Journal(tmp_path)
    with pytest.raises(PipelineError, match="no run has begun here yet"):
        read_status(tmp_path)
    journal.ask_for(journal.begin_run("elsewhere", 1, {}), {"old": []})
    run = journal.begin_run("elsewhere", 1, {})
    journal.ask_for(run, {"a": []})
    found = read_status(tmp_path)
    assert [each.name for each in found.entries] == ["a"]
    assert found.is_running, "its lock cannot be seen from here"
    journal.end_run(run)
    assert not read_status(tmp_path).is_running
    journal.close()
