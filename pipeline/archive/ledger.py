"""The journal of an archive's round trip: what became of each series, safe at every moment.

It lies in the journal of the output folder, in tables of its own. It holds UIDs, which are needed
to go on, so only its owner may read it. Each change is on disk before the next step is taken: a
result is noted before it is pushed, and its push is noted when the archive has confirmed it.
"""

import hashlib
import json
import secrets
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Literal, TypeAlias, get_args

from pipeline.errors import ConfigError

State: TypeAlias = Literal["queued", "pulled", "segmented", "pushed", "rejected", "failed"]
STATES: tuple[State, ...] = get_args(State)

NAME_LENGTH = 12
"""Hexadecimal digits of a name: 48 bits, enough for a million series to differ."""

_BUSY_TIMEOUT_S = 30.0
_OWNER_ONLY = 0o600
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
"""
_COLUMNS = "series_uid, study_uid, name, state, reason, attempts, recipe, target, products"


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
    products: tuple[str, ...]


class Ledger:
    """The journal of an output folder; one thread's.

    Args:
        path: The SQLite file; created, readable to its owner only, or added to.

    Raises:
        ConfigError: If it cannot be opened, or is no journal.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.touch(mode=_OWNER_ONLY)
            # SQLite gives its other files the permissions of this one.
            path.chmod(_OWNER_ONLY)
            self._database = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.executescript(_TABLES)
            self._salt = self._read_salt()
        except (OSError, sqlite3.Error) as error:
            remedy = "Choose another folder with --out, or remove the file."
            raise ConfigError(path, f"cannot be used as a journal ({error})", remedy) from None

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

    def queue(self, study_uid: str, series_uids: Iterable[str], recipe: str) -> None:
        """Note series to be done; those that are known stay, unless another recipe is asked for."""
        now = time.time()
        rows = [
            (uid, study_uid, self.name_of(uid), "queued", "", 0, recipe, "", "[]", now, now)
            for uid in series_uids
        ]
        self._database.executemany(
            f"INSERT INTO archive_series ({_COLUMNS}, queued_at, changed_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (series_uid) DO UPDATE SET "
            "state = 'queued', reason = '', recipe = excluded.recipe, target = '', "
            "products = '[]', changed_at = excluded.changed_at "
            "WHERE recipe != excluded.recipe",
            rows,
        )

    def entries(self, study_uid: str | None = None) -> list[Entry]:
        """Return what is known of a study's series, or of all."""
        which, values = ("", ()) if study_uid is None else ("WHERE study_uid = ?", (study_uid,))
        rows = self._database.execute(
            f"SELECT {_COLUMNS} FROM archive_series {which} ORDER BY queued_at, series_uid", values
        )
        return [replace(Entry(*row), products=tuple(json.loads(row[-1]))) for row in rows]

    def begin(self, study_uid: str) -> None:
        """Count one more attempt at a study."""
        self._database.execute(
            "UPDATE archive_series SET attempts = attempts + 1 WHERE study_uid = ?", (study_uid,)
        )

    def mark(
        self, series_uid: str, state: State, reason: str = "", products: Sequence[str] = ()
    ) -> None:
        """Note how far a series is, replacing reason and products."""
        self._database.execute(
            "UPDATE archive_series SET state = ?, reason = ?, products = ?, changed_at = ? "
            "WHERE series_uid = ?",
            (state, reason, json.dumps(list(products)), time.time(), series_uid),
        )

    def mark_pushed(self, series_uid: str, target: str) -> None:
        """Note that an archive has confirmed to have all products of a series."""
        self._database.execute(
            "UPDATE archive_series SET state = 'pushed', reason = '', target = ?, changed_at = ? "
            "WHERE series_uid = ?",
            (target, time.time(), series_uid),
        )

    def counts(self, series_uids: Iterable[str]) -> dict[State, int]:
        """Return the number of the series in each state, those of none left out."""
        wanted = set(series_uids)
        found = Counter(entry.state for entry in self.entries() if entry.series_uid in wanted)
        return {state: found[state] for state in STATES if found[state]}

    def _read_salt(self) -> str:
        self._database.execute("BEGIN IMMEDIATE")
        row = self._database.execute("SELECT salt FROM archive_salt").fetchone()
        if row is None:
            row = (secrets.token_hex(16),)
            self._database.execute("INSERT INTO archive_salt VALUES (?)", row)
        self._database.execute("COMMIT")
        return str(row[0])
