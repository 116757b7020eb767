import sqlite3
import stat
import subprocess
import sys

import pytest

from pipeline.errors import PipelineError
from pipeline.pacs.instance import Basis
from pipeline.pacs.ledger import Ledger

UIDS = ("1.2.3.1", "1.2.3.2")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out" / "journal.sqlite"


@pytest.fixture
def ledger(path):
    with Ledger(path) as opened:
        opened.queue("1.2.3", UIDS, "recipe")
        yield opened


def states(ledger):
    return {entry.series_uid: entry.state for entry in ledger.entries("1.2.3")}


def test_what_is_noted_is_there_when_opened_again(ledger, path):
    ledger.begin("1.2.3")
    ledger.mark(UIDS[0], "segmented", products=["a_seg.dcm"])
    ledger.mark(UIDS[1], "rejected", "too bright")
    ledger.mark_pushed(UIDS[0], "https://pacs")
    with Ledger(path) as again:
        first, second = again.entries("1.2.3")
        assert again.name_of("1.2.3") == ledger.name_of("1.2.3")
    assert (first.state, first.products, first.target) == ("pushed", ("a_seg.dcm",), "https://pacs")
    assert (second.state, second.reason, second.attempts) == ("rejected", "too bright", 1)


def test_is_open_to_its_owner_only_with_all_its_files(ledger, path):
    modes = {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert len(list(path.parent.iterdir())) == 3
    assert modes == {0o600}


def test_queueing_again_changes_nothing_but_for_another_recipe(ledger):
    ledger.mark(UIDS[0], "segmented", products=["a_seg.dcm"])
    ledger.queue("1.2.3", UIDS, "recipe")
    assert states(ledger) == {UIDS[0]: "segmented", UIDS[1]: "queued"}
    ledger.queue("1.2.3", UIDS, "another")
    assert states(ledger) == dict.fromkeys(UIDS, "queued")
    assert ledger.entries()[0].products == ()


def test_names_are_salted_short_and_not_shown_with_uids(ledger, tmp_path):
    with Ledger(tmp_path / "other.sqlite") as other:
        assert other.name_of(UIDS[0]) != ledger.name_of(UIDS[0])
    assert len(ledger.name_of(UIDS[0])) == 12
    assert "1.2.3" not in repr(ledger.entries())


def test_counts_the_states_of_the_named(ledger):
    ledger.queue("9.9", ["9.9.1"], "recipe")
    ledger.mark(UIDS[0], "failed", "no")
    assert ledger.counts(UIDS) == {"queued": 1, "failed": 1}


def test_the_last_run_is_known_with_its_studies(ledger, path):
    ledger.begin_run("host", 7, ["1.2.3"], "https://pacs")
    ledger.begin_run("host", 8, ["1.2.3", "9.9"], "")
    run = ledger.last_run()
    assert (run.number, run.host, run.pid, run.target) == (2, "host", 8, "")
    assert (run.studies, run.ended_at) == ({"1.2.3", "9.9"}, None)
    ledger.end_run()
    with Ledger(path, is_reader=True) as reader:
        assert reader.last_run().ended_at >= run.began_at
        assert reader.name_of("1.2.3") == ledger.name_of("1.2.3")


def test_a_reader_finds_no_run_where_there_was_no_archive(path):
    path.parent.mkdir()
    sqlite3.connect(path).close()
    with Ledger(path, is_reader=True) as reader:
        assert reader.last_run() is None


def test_damage_found_on_the_way_is_said(ledger, path):
    with sqlite3.connect(path) as other:
        other.execute("ALTER TABLE archive_series DROP COLUMN target")
    other.close()
    with pytest.raises(PipelineError, match=r"journal\.sqlite: .*no such column: target.*Rename"):
        ledger.entries()
    with pytest.raises(PipelineError, match=r"Rename"):
        ledger.mark_pushed(UIDS[0], "https://pacs")


def test_lives_beside_other_tables(path):
    path.parent.mkdir()
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE studies (name TEXT)")
    database.close()
    with Ledger(path) as ledger:
        assert ledger.entries() == []
    database = sqlite3.connect(path)
    assert database.execute("SELECT count(*) FROM studies").fetchone() == (0,)
    database.close()


def test_what_is_noted_outlives_a_killed_process(path):
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from pipeline.pacs.ledger import Ledger\n"
        "ledger = Ledger(Path(sys.argv[1])); ledger.queue('1', ['1.1'], 'r')\n"
        "ledger.mark('1.1', 'pulled'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    with Ledger(path) as ledger:
        assert [entry.state for entry in ledger.entries()] == ["pulled"]


def test_another_file_is_refused(tmp_path):
    (tmp_path / "journal.sqlite").write_text("x" * 5000)
    with pytest.raises(
        PipelineError, match=r"journal\.sqlite: the journal cannot be used .*Rename"
    ):
        Ledger(tmp_path / "journal.sqlite")


def test_a_journal_of_an_earlier_version_goes_on(ledger, path):
    """It knows neither what a series consisted of nor what was sent."""
    ledger.mark(UIDS[0], "rejected", "too bright")
    for table in ("archive_bases", "archive_sent"):
        ledger._execute(f"DROP TABLE {table}")
    with Ledger(path, is_reader=True) as reader:
        assert [entry.basis for entry in reader.entries()] == [None, None]
    with Ledger(path) as again:
        again.note_basis(UIDS[0], Basis(2, "ab"))
        again.note_sent("1.2", "https://pacs", is_accepted=False)
        again.note_sent("1.2", "https://pacs", is_accepted=True)
        assert [entry.basis for entry in again.entries("1.2.3")] == [Basis(2, "ab"), None]
        assert again.entries()[0].reason == "too bright"
        assert again.sent("1.2", "https://pacs").is_accepted
        assert again.sent("1.2", "https://elsewhere") is None


def test_a_study_in_trouble_has_a_row_until_it_is_out_of_it(ledger):
    for _ in range(2):
        uid = ledger.note_trouble("7.7", "not looked up")
    (entry,) = ledger.entries("7.7")
    assert (entry.state, entry.reason, entry.attempts) == ("failed", "not looked up", 2)
    assert not entry.is_of_series
    assert ledger.counts([uid, *UIDS]) == {"queued": 2, "failed": 1}
    ledger.clear_trouble("7.7")
    assert ledger.entries("7.7") == []


def test_a_series_that_lies_in_another_study_now_is_another_one(ledger):
    ledger.mark(UIDS[0], "pushed")
    ledger.queue("9.9", UIDS[:1], "recipe")
    assert [entry.state for entry in ledger.entries("9.9")] == ["queued"]
