"""The journal of an output folder: what became of every study, whatever became of the process.

One SQLite file, written by one process; others read it while it is written (write-ahead log). A
study is `queued`, `running`, or has ended as `done`, `corrected`, `rejected` or `failed`. What was
`running` when the process was killed is found as such by the next one. The file can be read by its
owner only: it knows where studies lie, and paths can hold patients' names.
"""

import json
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.journal.database import (
    JOURNAL,
    check_rows,
    damage_named,
    has_table,
    make_tables,
    open_database,
)
from pipeline.journal.records import Entry, RunRecord, Stage
from pipeline.journal.table import Row
from pipeline.system.private import make_private_folder

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    id INTEGER PRIMARY KEY,
    started_utc TEXT NOT NULL, seen_utc TEXT NOT NULL, ended_utc TEXT,
    host TEXT NOT NULL, pid INTEGER NOT NULL, request TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS studies (
    position INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    run INTEGER NOT NULL REFERENCES runs(id),
    state TEXT NOT NULL, stage TEXT NOT NULL DEFAULT '', since_utc TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '', cause TEXT NOT NULL DEFAULT '',
    attempts INTEGER NOT NULL DEFAULT 0,
    seconds TEXT NOT NULL DEFAULT '{}', total_s REAL NOT NULL DEFAULT 0,
    volumes_ml TEXT NOT NULL DEFAULT '{}',
    signature TEXT NOT NULL DEFAULT '', sources TEXT NOT NULL DEFAULT '[]',
    warnings TEXT NOT NULL DEFAULT '[]', incomplete TEXT NOT NULL DEFAULT 'null'
);
"""
_ADDED = {"warnings": "'[]'", "incomplete": "'null'"}
"""Columns that journals of earlier versions lack, and what they hold where nothing is known."""


class Journal:
    """The journal of an output folder.

    Attributes:
        path: Of its file.
        found: What that file was when it was opened.

    Args:
        out: The folder, which exists.
        is_reader: Whether nothing will be written; the journal must be there then.

    Raises:
        PipelineError: If there is no journal or it cannot be read.
    """

    def __init__(self, out: Path, *, is_reader: bool = False) -> None:
        self.path = out / JOURNAL
        if is_reader and not self.path.is_file():
            remedy = "Give the folder that `trivox segment` writes to (--out)."
            raise PipelineError(out, f"there is no {JOURNAL}", remedy)
        if not is_reader:
            make_private_folder(out)
        with self._damage_named():
            self._database = open_database(self.path, is_reader=is_reader)
            self._database.row_factory = sqlite3.Row
            if not is_reader:
                self._execute("PRAGMA synchronous=NORMAL")
                if has_table(self._database, "studies"):
                    columns = self._execute("SELECT name FROM pragma_table_info('studies')")
                    self._add_columns({column["name"] for column in columns})
                make_tables(self._database, _SCHEMA)
            self.found = self.path.lstat()

    def _add_columns(self, known: Collection[str]) -> None:
        for name, default in _ADDED.items():
            if name in known:
                continue
            if "digest" in known:
                # It is of all columns; the rows were checked, and get another one.
                self._execute("ALTER TABLE studies DROP COLUMN digest")
                known = set(known) - {"digest"}
            column = f"{name} TEXT NOT NULL DEFAULT {default}"
            self._execute(f"ALTER TABLE studies ADD COLUMN {column}")

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def begin_run(self, host: str, pid: int, request: dict[str, Any]) -> int:
        """Enter a run and return its number."""
        with self._damage_named():
            cursor = self._execute(
                "INSERT INTO runs (started_utc, seen_utc, host, pid, request) "
                "VALUES (?, ?, ?, ?, ?)",
                (now := _now(), now, host, pid, json.dumps(request)),
            )
        return int(cursor.lastrowid or 0)

    def end_run(self, run: int) -> None:
        """Enter that a run has ended by itself; what it did not get to waits in the queue."""
        with self._changes():
            self._execute(
                "UPDATE studies SET state='queued', stage='' WHERE run=? AND state='running'",
                (run,),
            )
            self._execute(
                "UPDATE runs SET ended_utc=?, seen_utc=? WHERE id=?", (_now(), _now(), run)
            )

    def ask_for(self, run: int, sources: Mapping[str, Sequence[str]]) -> None:
        """Enter the studies of a run; those that an earlier one met keep what is known of them.

        Args:
            run: Its number.
            sources: Where the input of each study lies, by the study's name.
        """
        rows = [(name, run, _now(), json.dumps(list(found))) for name, found in sources.items()]
        with self._changes():
            self._database.executemany(
                "INSERT INTO studies (name, run, state, since_utc, sources) "
                "VALUES (?, ?, 'queued', ?, ?) ON CONFLICT (name) DO UPDATE SET "
                "run=excluded.run, sources=excluded.sources",
                rows,
            )

    def queue(self, names: Sequence[str]) -> None:
        """Enter that studies wait to be done, whatever became of them before."""
        with self._changes():
            self._database.executemany(
                "UPDATE studies SET state='queued', stage='', reason='', cause='', signature='', "
                "since_utc=? WHERE name=?",
                [(_now(), name) for name in names],
            )

    def begin(self, name: str) -> None:
        """Enter that a study is begun."""
        with self._damage_named():
            self._execute(
                "UPDATE studies SET state='running', stage='', attempts=attempts+1, since_utc=? "
                "WHERE name=?",
                (_now(), name),
            )

    def enter_stage(self, name: str, stage: Stage, device: str = "") -> None:
        """Enter what is being done with a study, and on which of several devices."""
        with self._damage_named():
            self._execute(
                "UPDATE studies SET stage=?, since_utc=? WHERE name=? AND state='running'",
                (f"{stage} on {device}" if device else stage, _now(), name),
            )

    def put(self, run: int, row: Row, signature: str) -> None:
        """Enter what became of a study."""
        values = (
            row.status, row.reason, row.cause, json.dumps(dict(row.seconds)), row.total_s,
            json.dumps(dict(row.volumes_ml)), json.dumps(list(row.warnings)),
            json.dumps(row.incomplete), signature, _now(), row.case,
        )  # fmt: skip
        with self._changes():
            self._execute(
                "UPDATE studies SET state=?, reason=?, cause=?, seconds=?, total_s=?, "
                "volumes_ml=?, warnings=?, incomplete=?, signature=?, since_utc=?, stage='' "
                "WHERE name=?",
                values,
            )
            self._execute("UPDATE runs SET seen_utc=? WHERE id=?", (_now(), run))

    def entries(self, run: int | None = None) -> list[Entry]:
        """Return all studies, or those of one run, in the order in which they were first met."""
        where, values = ("", ()) if run is None else ("WHERE run=?", (run,))
        with self._damage_named():
            check_rows(self._database, "studies", where, values)
            found = self._execute(f"SELECT * FROM studies {where} ORDER BY position", values)
            return [Entry.of(each) for each in found]

    def models(self) -> set[str]:
        """Return the hash of each model that a run was begun with."""
        with self._damage_named():
            found = self._execute("SELECT DISTINCT json_extract(request, '$.sha256') FROM runs")
            return {str(each[0]) for each in found}

    def last_run(self) -> RunRecord | None:
        """Return the newest run."""
        with self._damage_named():
            if not has_table(self._database, "runs"):
                return None
            found = self._execute("SELECT * FROM runs ORDER BY id DESC LIMIT 1").fetchone()
            return None if found is None else RunRecord.of(found)

    def _execute(self, statement: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        return self._database.execute(statement, tuple(values))

    @contextmanager
    def _changes(self) -> Iterator[None]:
        """Make changes that appear together or not at all."""
        with self._damage_named(), self._database:
            self._execute("BEGIN IMMEDIATE")
            yield

    def _damage_named(self) -> AbstractContextManager[None]:
        return damage_named(self.path)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
