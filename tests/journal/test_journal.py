import os
import sqlite3
import stat
import subprocess
import sys

import pytest

from pipeline.errors import PipelineError
from pipeline.journal import JOURNAL, PRIVATE, Journal, Row
from pipeline.journal.database import _digest, keep_digests

WRITE_FOREVER = """
import sys
from pathlib import Path
from pipeline.journal import Journal, Row
journal = Journal(Path(sys.argv[1]))
run = journal.begin_run("host", 1, {})
names = [f"s{i}" for i in range(20)]
journal.ask_for(run, {name: [] for name in names})
print("go", flush=True)
while True:
    for name in names:
        journal.begin(name)
        journal.enter_stage(name, "load")
        journal.put(run, Row(name, "done", volumes_ml={"liver": 1.0}), "x" * 64)
"""


@pytest.fixture
def out(tmp_path):
    (tmp_path / PRIVATE).mkdir()
    return tmp_path


@pytest.fixture
def journal(out):
    journal = Journal(out)
    yield journal
    journal.close()


def states(journal, run=None):
    return {entry.name: entry.state for entry in journal.entries(run)}


def test_a_study_goes_from_queue_to_end(journal):
    run = journal.begin_run("host", 7, {"model": "tiny"})
    journal.ask_for(run, {"a": ["/in/a.nii"], "b": []})
    assert states(journal) == {"a": "queued", "b": "queued"}
    journal.begin("a")
    journal.enter_stage("a", "segment")
    entry = journal.entries()[0]
    assert (entry.state, entry.stage, entry.attempts) == ("running", "segment", 1)
    row = Row(
        "a",
        "done",
        "",
        {"load": 0.5},
        1.25,
        {"liver": 2.5},
        warnings=("odd", "small"),
        incomplete=("liver",),
    )
    journal.put(run, row, "signature")
    entry = journal.entries()[0]
    assert (entry.row, entry.stage, entry.signature) == (row, "", "signature")
    assert entry.sources == ("/in/a.nii",)


def test_a_journal_of_an_earlier_version_knows_no_warnings(journal, out):
    run = journal.begin_run("host", 7, {})
    journal.ask_for(run, {"a": []})
    journal.put(run, Row("a", "done"), "s")
    journal.close()
    with sqlite3.connect(out / JOURNAL) as database:
        database.executescript(
            "ALTER TABLE studies DROP COLUMN warnings; ALTER TABLE studies DROP COLUMN digest; "
            "ALTER TABLE runs DROP COLUMN digest"
        )
    database.close()
    for is_reader in (True, False):
        again = Journal(out, is_reader=is_reader)
        assert again.entries()[0].row == Row("a", "done")
        if not is_reader:
            again.put(run, Row("a", "done", warnings=("odd",)), "s")
            assert again.entries()[0].row.warnings == ("odd",)
        again.close()


def test_a_journal_with_digests_gets_a_new_column(journal, out):
    run = journal.begin_run("host", 7, {})
    journal.ask_for(run, {"a": []})
    journal.put(run, Row("a", "done", warnings=("odd",), incomplete=("liver",)), "s")
    journal.close()
    with sqlite3.connect(out / JOURNAL) as database:
        database.create_function("digest", -1, _digest, deterministic=True)
        database.executescript(
            "ALTER TABLE studies DROP COLUMN incomplete; ALTER TABLE studies DROP COLUMN digest"
        )
        keep_digests(database)
    database.close()
    for is_reader in (True, False, True):
        again = Journal(out, is_reader=is_reader)
        assert again.entries()[0].row == Row("a", "done", warnings=("odd",))
        again.close()


def test_it_knows_the_models_of_all_runs(journal):
    assert journal.models() == set()
    for sha256 in ("a", "b", "a"):
        journal.begin_run("host", 7, {"sha256": sha256})
    assert journal.models() == {"a", "b"}


def test_a_run_that_ends_leaves_nothing_running(journal):
    run = journal.begin_run("host", 7, {})
    journal.ask_for(run, {"a": [], "b": []})
    journal.begin("b")
    journal.end_run(run)
    assert states(journal) == {"a": "queued", "b": "queued"}
    assert journal.last_run().ended_utc is not None


def test_a_later_run_keeps_what_is_known_and_the_order(journal):
    first = journal.begin_run("host", 7, {})
    journal.ask_for(first, {"a": [], "b": []})
    journal.put(first, Row("a", "done"), "s")
    second = journal.begin_run("host", 8, {})
    journal.ask_for(second, {"c": [], "a": ["elsewhere"]})
    assert list(states(journal)) == ["a", "b", "c"]
    assert states(journal, second) == {"a": "done", "c": "queued"}
    assert journal.entries()[0].sources == ("elsewhere",)
    journal.queue(["a"])
    assert (journal.entries()[0].state, journal.entries()[0].signature) == ("queued", "")
    assert journal.last_run().number == second


def test_only_the_owner_may_read_it(out, journal):
    journal.begin_run("host", 7, {})
    for path in (out / PRIVATE).iterdir():
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path.name


def test_it_is_written_ahead(out, journal):
    with sqlite3.connect(out / JOURNAL) as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    other.close()


def test_others_read_it_while_it_is_written(out, journal):
    run = journal.begin_run("host", 7, {})
    journal.ask_for(run, {"a": []})
    reader = Journal(out, is_reader=True)
    assert states(reader) == {"a": "queued"}
    journal.begin("a")
    assert states(reader) == {"a": "running"}
    reader.close()


def test_it_holds_whatever_kills_its_writer(out):
    """Twenty studies, each whole at every moment: a killed writer leaves no half of one."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE_FOREVER, str(out)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "go\n"
    for _ in range(200):
        os.sched_yield()
    process.kill()
    process.wait()
    process.stdout.close()
    journal = Journal(out)
    entries = journal.entries()
    journal.close()
    assert len(entries) == 20
    for entry in entries:
        assert entry.state in ("queued", "running", "done")
        assert (entry.signature == "x" * 64) or entry.attempts <= 1


def test_no_journal_is_said(tmp_path):
    with pytest.raises(PipelineError, match=r"there is no \.trivox/journal\.sqlite"):
        Journal(tmp_path, is_reader=True)


def test_a_file_that_holds_no_cohort_yet_has_no_run(out):
    """A round trip to an archive keeps its own tables there, and begins before."""
    sqlite3.connect(out / JOURNAL).close()
    journal = Journal(out, is_reader=True)
    assert journal.last_run() is None
    journal.close()


def test_a_damaged_journal_is_said(out):
    (out / JOURNAL).write_bytes(b"this is no database" * 100)
    with pytest.raises(PipelineError, match=r"the journal cannot be used.*Rename it"):
        Journal(out)


def test_a_journal_of_another_version_is_said(out, journal):
    journal.ask_for(journal.begin_run("host", 7, {}), {"a": []})
    with sqlite3.connect(out / JOURNAL) as other:
        other.execute("ALTER TABLE studies DROP COLUMN signature")
    other.close()
    with pytest.raises(PipelineError, match=r"of another version.*Rename it"):
        journal.entries()
    with pytest.raises(PipelineError, match=r"no such column: signature.*Rename it"):
        journal.queue(["a"])


def test_it_is_read_where_nothing_can_be_written(out, journal, monkeypatch):
    """SQLite cannot open a write-ahead journal there by itself: it would make files beside it."""
    journal.ask_for(journal.begin_run("host", 7, {}), {"a": []})
    journal.close()
    monkeypatch.setattr(os, "access", lambda *_args: False)
    reader = Journal(out, is_reader=True)
    assert states(reader) == {"a": "queued"}
    assert [path.name for path in (out / PRIVATE).iterdir()] == ["journal.sqlite"]
    reader.close()


def test_a_full_disk_is_said(journal):
    """SQLite's own limit on pages stands for the disk's."""
    run = journal.begin_run("host", 7, {})
    journal._execute("PRAGMA max_page_count=1")
    with pytest.raises(PipelineError, match=r"full.*Free space on the disk"):
        journal.ask_for(run, {f"study {index}": ["x" * 100] for index in range(1000)})
    assert states(journal) == {}, "all or nothing"
