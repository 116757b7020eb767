"""Whatever becomes of a journal's file: it is told by name, or tells exactly what was written."""

import sqlite3

import pytest

from pipeline.errors import PipelineError
from pipeline.journal import JOURNAL, Journal, Row, read_status
from pipeline.pacs.ledger import Ledger

NAMES = [f"study{number}" for number in range(30)]


def told(out, *, is_reader=True):
    """Return all that a journal and an archive's tables in it say."""
    journal = Journal(out, is_reader=is_reader)
    try:
        with Ledger(out / JOURNAL, is_reader=is_reader) as ledger:
            of_archive = (ledger.last_run(), ledger.entries(), ledger.name_of("1.2.3"))
        return of_archive, journal.last_run(), journal.entries(), journal.models()
    finally:
        journal.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return an output folder, its journal's bytes, and all that it tells."""
    out = tmp_path_factory.mktemp("out")
    journal = Journal(out)
    run = journal.begin_run("host", 7, {"sha256": "0" * 64})
    journal.ask_for(run, {name: [f"/in/{name}.nii"] for name in NAMES})
    for name in NAMES[:20]:
        journal.begin(name)
        row = Row(name, "done", "", {"load": 0.5}, 1.0, {"liver": 1400.25}, warnings=["söme"])
        journal.put(run, row, "s" * 64)
    journal.end_run(run)
    journal.close()
    with Ledger(out / JOURNAL) as ledger:
        ledger.begin_run("host", 7, ["1.2.3"], "")
        ledger.queue("1.2.3", [f"1.2.3.{number}" for number in range(5)], "recipe")
        ledger.mark("1.2.3.1", "segmented", products=["a_seg.dcm"])
        ledger.end_run()
    content = (out / JOURNAL).read_bytes()
    return out, content, told(out)


def write(out, content):
    for path in (out / JOURNAL).parent.glob("journal.sqlite*"):
        path.unlink()
    (out / JOURNAL).write_bytes(content)


def is_used(whole, content, **how):
    """Tell whether damage is neither named nor without effect."""
    out, _, undamaged = whole
    write(out, content)
    try:
        return told(out, **how) != undamaged
    except PipelineError as error:
        return JOURNAL not in str(error) or "Rename it" not in str(error)


def test_no_flipped_bit_is_used(whole):
    content = whole[1]
    assert not is_used(whole, content)
    everywhere = [(place, place % 8) for place in range(0, len(content), 301)]
    header = [(place, place % 8) for place in range(0, 100, 7)]
    names_of_tables = [
        (content.rindex(b"TABLE runs") + 6, 0),
        (content.rindex(b"tablerunsruns") + 5, 7),
    ]
    numbers_of_rows = [
        (page + 4, bit) for page in range(4096, len(content), 4096) for bit in (0, 1)
    ]
    used = []
    for place, bit in (*everywhere, *header, *names_of_tables, *numbers_of_rows):
        flipped = bytearray(content)
        flipped[place] ^= 1 << bit
        if is_used(whole, bytes(flipped)):
            used.append((place, bit))
    assert used == []


@pytest.mark.parametrize("is_reader", [True, False])
def test_no_part_is_used_and_no_gap(whole, is_reader):
    content = whole[1]
    lengths = [1, 99, 100, 511, 512, *range(4096, len(content), 4096), len(content) - 1]
    cut = [content[:length] for length in lengths]
    gaps = [content[:start] + bytes(512) + content[start + 512 :] for start in lengths[5:-1]]
    for damaged in (*cut, *gaps, b"once upon a time"):
        assert not is_used(whole, damaged, is_reader=is_reader)


def test_an_empty_journal_is_said_and_a_run_begins_anew(whole):
    out = whole[0]
    write(out, b"")
    with pytest.raises(PipelineError, match=r"journal\.sqlite: .*empty.*again.*kept"):
        read_status(out)
    journal = Journal(out)
    assert journal.begin_run("host", 7, {}) == 1
    journal.close()


def test_a_journal_of_an_earlier_version_gets_digests_when_it_is_written(tmp_path):
    journal = Journal(tmp_path)
    journal.ask_for(journal.begin_run("host", 7, {}), {"a": [], "b": []})
    journal.close()
    path = tmp_path / JOURNAL
    with sqlite3.connect(path) as database:
        database.executescript(
            "ALTER TABLE studies DROP COLUMN digest; ALTER TABLE runs DROP COLUMN digest; "
            "PRAGMA journal_mode = DELETE"
        )
    database.close()
    before = path.read_bytes()
    assert [entry.name for entry in read_status(tmp_path).entries] == ["a", "b"]
    assert path.read_bytes() == before
    journal = Journal(tmp_path)
    journal.begin("a")
    journal.close()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE studies SET name = 'c' WHERE name = 'b'")
    database.close()
    with pytest.raises(PipelineError, match=r"journal\.sqlite: .*1 rows of studies.*Rename"):
        Journal(tmp_path)


def test_rows_that_are_damaged_while_the_journal_is_open_are_not_read(tmp_path):
    with Ledger(tmp_path / "journal.sqlite") as ledger:
        ledger.queue("1.2", ["1.2.1"], "recipe")
        with sqlite3.connect(tmp_path / "journal.sqlite") as other:
            other.execute("UPDATE archive_series SET state = 'pushed'")
        other.close()
        with pytest.raises(PipelineError, match="Rename"):
            ledger.entries("1.2")
