"""The journal of an archive's round trip: what became of each series, safe at every moment.

It lies in the journal of the output folder, in tables of its own. It holds UIDs, which are needed
to go on, so only its owner may read it. Each change is on disk before the next step is taken: a
result is noted before it is pushed, and its push is noted when the archive has confirmed it.
"""

import hashlib
import json
import secrets
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeAlias, get_args

from pipeline.journal import check_rows, damage_named, has_table, make_tables, open_database

State: TypeAlias = Literal[
    "queued", "pulled", "segmented", "pushed", "unchosen", "rejected", "failed"
]
STATES: tuple[State, ...] = get_args(State)
"""Of a series; `unchosen`: another one of its study was to be segmented."""

NAME_LENGTH = 12
"""Hexadecimal digits of a name: 48 bits, enough for a million series to differ."""

_TABLES = """
CREATE TABLE IF NOT EXISTS archive_salt (salt TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS archive_series (
    series_uid TEXT PRIMARY KEY,
    study_uid TEXT NOT NULL,
    name TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    recipe TEXT NOT NULL,
    target TEXT NOT NULL,
    products TEXT NOT NULL,
    queued_at REAL NOT NULL,
    changed_at REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS archive_series_by_study ON archive_series (study_uid);
CREATE TABLE IF NOT EXISTS archive_runs (
    id INTEGER PRIMARY KEY,
    began_at REAL NOT NULL, ended_at REAL,
    host TEXT NOT NULL, pid INTEGER NOT NULL,
    target TEXT NOT NULL, studies TEXT NOT NULL
);
"""
_MAKE_SALT = (
    "INSERT INTO archive_salt (salt) SELECT ? WHERE NOT EXISTS (SELECT * FROM archive_salt)"
)
_RUN_COLUMNS = "id, began_at, ended_at, host, pid, target, studies"
_COLUMNS = (
    "series_uid, study_uid, name, state, reason, attempts, recipe, target, changed_at, products"
)


@dataclass(frozen=True)
class Entry:
    """What is known of one series.

    Attributes:
        series_uid: Series Instance UID.
        study_uid: Study Instance UID.
        name: Salted hash of the series' UID, for people.
        state: How far it is.
        reason: Why it was rejected or failed; empty otherwise.
        attempts: How often its study was begun.
        recipe: What it was, or is to be, segmented with.
        target: Where it was pushed to; empty before.
        changed_at: When this was noted, in seconds since 1970.
        products: Files in the output folder that go to the archive.
    """

    series_uid: str = field(repr=False)
    study_uid: str = field(repr=False)
    name: str
    state: State
    reason: str
    attempts: int
    recipe: str
    target: str
    changed_at: float
    products: tuple[str, ...]


@dataclass(frozen=True)
class TripRecord:
    """What is known of one run of the round trip.

    Attributes:
        number: Counted from 1.
        began_at: In seconds since 1970, like `ended_at`.
        ended_at: When it ended by itself; None while it is running, or if it was killed.
        host: Where it ran, as process `pid`.
        target: Where it pushes to; empty if it does not.
        studies: What it was to bring to its end, by Study Instance UID.
    """

    number: int
    began_at: float
    ended_at: float | None
    host: str
    pid: int
    target: str
    studies: frozenset[str] = field(repr=False)


class Ledger:
    """The journal of an output folder; one thread's.

    Args:
        path: The SQLite file; created, readable to its owner only, or added to.
        is_reader: Whether nothing will be written; the file must be there then.

    Raises:
        PipelineError: If it cannot be opened, or is no journal. So do all methods if it is damaged.
    """

    def __init__(self, path: Path, *, is_reader: bool = False) -> None:
        self._path = path
        if not is_reader:
            path.parent.mkdir(parents=True, exist_ok=True)
        with damage_named(path):
            self._database = open_database(path, is_reader=is_reader)
            if not is_reader:
                self._database.execute("PRAGMA synchronous = FULL")
                make_tables(self._database, _TABLES)
                self._database.execute(_MAKE_SALT, (secrets.token_hex(16),))

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._database.close()

    def name_of(self, uid: str) -> str:
        """Return a name for a study or series that says nothing to those without the journal."""
        return hashlib.sha256(f"{self._salt}{uid}".encode()).hexdigest()[:NAME_LENGTH]

    def begin_run(self, host: str, pid: int, study_uids: Iterable[str], target: str) -> None:
        """Note a run over studies: by which process, and where it pushes to, if it does."""
        self._execute(
            "INSERT INTO archive_runs (began_at, host, pid, target, studies) "
            "VALUES (?, ?, ?, ?, ?)",
            (time.time(), host, pid, target, json.dumps(list(study_uids))),
        )

    def end_run(self) -> None:
        """Note that the newest run has ended by itself."""
        self._execute(
            "UPDATE archive_runs SET ended_at = ? WHERE id = (SELECT max(id) FROM archive_runs)",
            (time.time(),),
        )

    def last_run(self) -> TripRecord | None:
        """Return the newest run; None if there is none, or this is no archive's journal."""
        with damage_named(self._path):
            if not has_table(self._database, "archive_runs"):
                return None
            newest = "ORDER BY id DESC LIMIT 1"
            check_rows(self._database, "archive_runs", newest)
            rows = self._database.execute(f"SELECT {_RUN_COLUMNS} FROM archive_runs {newest}")
            found = [
                replace(TripRecord(*row), studies=frozenset(json.loads(row[-1]))) for row in rows
            ]
        return next(iter(found), None)

    def queue(self, study_uid: str, series_uids: Iterable[str], recipe: str) -> None:
        """Note series to be done; those that are known stay, unless another recipe is asked for."""
        now = time.time()
        for uid in series_uids:
            self._execute(
                f"INSERT INTO archive_series ({_COLUMNS}, queued_at) "
                "VALUES (?, ?, ?, 'queued', '', 0, ?, '', ?, '[]', ?) "
                "ON CONFLICT (series_uid) DO UPDATE SET "
                "state = 'queued', reason = '', recipe = excluded.recipe, target = '', "
                "products = '[]', changed_at = excluded.changed_at "
                "WHERE recipe != excluded.recipe",
                (uid, study_uid, self.name_of(uid), recipe, now, now),
            )

    def entries(self, study_uid: str | None = None) -> list[Entry]:
        """Return what is known of a study's series, or of all."""
        which, values = ("", ()) if study_uid is None else ("WHERE study_uid = ?", (study_uid,))
        rows = self._execute(
            f"SELECT {_COLUMNS} FROM archive_series {which} ORDER BY queued_at, series_uid", values
        )
        with damage_named(self._path):
            check_rows(self._database, "archive_series", which, values)
            return [replace(Entry(*row), products=tuple(json.loads(row[-1]))) for row in rows]

    def begin(self, study_uid: str) -> None:
        """Count one more attempt at a study."""
        self._execute(
            "UPDATE archive_series SET attempts = attempts + 1 WHERE study_uid = ?", (study_uid,)
        )

    def mark(
        self, series_uid: str, state: State, reason: str = "", products: Sequence[str] = ()
    ) -> None:
        """Note how far a series is, replacing reason and products."""
        self._execute(
            "UPDATE archive_series SET state = ?, reason = ?, products = ?, changed_at = ? "
            "WHERE series_uid = ?",
            (state, reason, json.dumps(list(products)), time.time(), series_uid),
        )

    def mark_pushed(self, series_uid: str, target: str) -> None:
        """Note that an archive has confirmed to have all products of a series."""
        self._execute(
            "UPDATE archive_series SET state = 'pushed', reason = '', target = ?, changed_at = ? "
            "WHERE series_uid = ?",
            (target, time.time(), series_uid),
        )

    def counts(self, series_uids: Iterable[str]) -> dict[State, int]:
        """Return the number of the series in each state, those of none left out."""
        wanted = set(series_uids)
        found = Counter(entry.state for entry in self.entries() if entry.series_uid in wanted)
        return {state: found[state] for state in STATES if found[state]}

    @cached_property
    def _salt(self) -> str:
        return str(self._execute("SELECT salt FROM archive_salt")[0][0])

    def _execute(self, statement: str, values: Sequence[object] = ()) -> list[Any]:
        with damage_named(self._path):
            return self._database.execute(statement, tuple(values)).fetchall()
