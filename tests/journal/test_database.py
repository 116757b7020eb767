"""How a journal's file is opened; what it is used for is tested in test_journal.py."""

import sqlite3
import stat

import pytest

from pipeline.errors import PipelineError
from pipeline.journal import damage_named, open_database


def test_its_files_are_for_their_owner_only(tmp_path):
    database = open_database(tmp_path / "x.sqlite")
    database.execute("CREATE TABLE t (a)")
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
    assert len(list(tmp_path.iterdir())) == 3
    database.close()


def test_a_reader_makes_no_file(tmp_path):
    with pytest.raises(sqlite3.Error):
        open_database(tmp_path / "nowhere" / "x.sqlite", is_reader=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("statement", "remedy"),
    [
        ("SELECT * FROM nothing", "Rename it"),
        ("INSERT INTO t VALUES (1)", "Rename it"),
        ("SELECT zeroblob(2000000000)", "Rename it"),
        ("INSERT INTO t VALUES (2)", "Free space"),
    ],
)
def test_damage_and_lack_of_space_have_their_own_remedies(tmp_path, statement, remedy):
    database = open_database(tmp_path / "x.sqlite")
    database.execute("CREATE TABLE t (a UNIQUE)")
    database.execute("INSERT INTO t VALUES (1)")
    if remedy == "Free space":
        database.execute("PRAGMA query_only = 1")
    with pytest.raises(PipelineError, match=remedy), damage_named(tmp_path / "x.sqlite"):
        database.execute(statement)
    database.close()


def test_a_damaged_schema_is_told_in_one_line(tmp_path):
    path = tmp_path / "x.sqlite"
    database = open_database(path)
    database.execute("CREATE TABLE studies (\n  a UNIQUE\n)")
    database.close()
    content = path.read_bytes()
    assert content.count(b"CREATE TABLE") == 1
    path.write_bytes(content.replace(b"CREATE TABLE", b'CREATE "ABLE'))
    with pytest.raises(PipelineError, match="malformed") as caught, damage_named(path):
        open_database(path).execute("SELECT * FROM studies")
    assert "\n" not in str(caught.value)
    assert "UNIQUE" not in str(caught.value)
