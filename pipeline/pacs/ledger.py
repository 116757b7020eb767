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
from pipeline.pacs.instance import Basis

State: TypeAlias = Literal[
    "queued", "pulled", "segmented", "unconfirmed", "pushed", "unchosen", "rejected", "failed"
]
STATES: tuple[State, ...] = get_args(State)
"""Of a series; `unconfirmed`: pushed, but the archive does not list it yet; `unchosen`: another one
of its study was to be segmented."""

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
CREATE TABLE IF NOT EXISTS archive_bases (
    series_uid TEXT PRIMARY KEY,
    num_instances INTEGER NOT NULL,
    uids_sha256 TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS archive_sent (
    instance_uid TEXT NOT NULL,
    target TEXT NOT NULL,
    sent_at REAL NOT NULL,
    is_accepted INTEGER NOT NULL,
    PRIMARY KEY (instance_uid, target)
);
"""
_MAKE_SALT = (
    "INSERT INTO archive_salt (salt) SELECT ? WHERE NOT EXISTS (SELECT * FROM archive_salt)"
)
_OF_THE_STUDY = "/"
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
        basis: What it consisted of when that was decided; None: an earlier version did not note it.
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
    basis: Basis | None = field(default=None, repr=False)

    @property
    def is_of_series(self) -> bool:
        """Whether it is of a series: of a study whose series are not known there is one entry."""
        return not self.series_uid.endswith(_OF_THE_STUDY)


@dataclass(frozen=True)
class Sent:
    """What is known of an instance that was sent to an archive.

    Attributes:
        sent_at: In seconds since 1970.
        is_accepted: Whether the archive said that it took it; it may have although it did not say.
    """

    sent_at: float
    is_accepted: bool


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
        """Note series to be done; those that are known stay, unless another recipe is asked for.

        One that lies in another study now is another one.
        """
        now = time.time()
        for uid in series_uids:
            self._execute(
                f"INSERT INTO archive_series ({_COLUMNS}, queued_at) "
                "VALUES (?, ?, ?, 'queued', '', 0, ?, '', ?, '[]', ?) "
                "ON CONFLICT (series_uid) DO UPDATE SET "
                "study_uid = excluded.study_uid, state = 'queued', reason = '', "
                "recipe = excluded.recipe, target = '', products = '[]', "
                "changed_at = excluded.changed_at "
                "WHERE recipe != excluded.recipe OR study_uid != excluded.study_uid",
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
            bases = self._bases(which, values)
            return [
                replace(Entry(*row), products=tuple(json.loads(row[-1])), basis=bases.get(row[0]))
                for row in rows
            ]

    def note_basis(self, series_uid: str, basis: Basis) -> None:
        """Note what a series consists of that something is decided on now."""
        self._execute(
            "INSERT INTO archive_bases (series_uid, num_instances, uids_sha256) VALUES (?, ?, ?) "
            "ON CONFLICT (series_uid) DO UPDATE SET "
            "num_instances = excluded.num_instances, uids_sha256 = excluded.uids_sha256",
            (series_uid, basis.num_instances, basis.uids_sha256),
        )

    def note_sent(self, instance_uid: str, target: str, *, is_accepted: bool) -> None:
        """Note that an instance is about to be sent to an archive, or that it said it took it."""
        self._execute(
            "INSERT INTO archive_sent (instance_uid, target, sent_at, is_accepted) "
            "VALUES (?, ?, ?, ?) ON CONFLICT (instance_uid, target) DO UPDATE SET "
            "sent_at = excluded.sent_at, is_accepted = excluded.is_accepted",
            (instance_uid, target, time.time(), int(is_accepted)),
        )

    def sent(self, instance_uid: str, target: str) -> Sent | None:
        """Return whether an instance was sent to an archive; None: it was not."""
        rows = self._execute(
            "SELECT sent_at, is_accepted FROM archive_sent WHERE instance_uid = ? AND target = ?",
            (instance_uid, target),
        )
        return next((Sent(at, bool(is_accepted)) for at, is_accepted in rows), None)

    def note_trouble(self, study_uid: str, reason: str) -> str:
        """Note a study whose series could not be asked for; return what stands for them."""
        uid, now = f"{study_uid}{_OF_THE_STUDY}", time.time()
        self._execute(
            f"INSERT INTO archive_series ({_COLUMNS}, queued_at) "
            "VALUES (?, ?, ?, 'failed', ?, 1, '', '', ?, '[]', ?) "
            "ON CONFLICT (series_uid) DO UPDATE SET attempts = attempts + 1, "
            "reason = excluded.reason, changed_at = excluded.changed_at",
            (uid, study_uid, self.name_of(study_uid), reason, now, now),
        )
        return uid

    def clear_trouble(self, study_uid: str) -> None:
        """Forget that a study's series could not be asked for: now they could."""
        uid = f"{study_uid}{_OF_THE_STUDY}"
        self._execute("DELETE FROM archive_series WHERE series_uid = ?", (uid,))

    def reopen(self, series_uid: str) -> None:
        """Note that a series is to be done anew: what it consists of has changed."""
        self._execute(
            "UPDATE archive_series SET state = 'queued', reason = '', target = '', "
            "products = '[]', changed_at = ? WHERE series_uid = ?",
            (time.time(), series_uid),
        )

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

    def _bases(self, which: str, values: Sequence[object]) -> dict[str, Basis]:
        if not has_table(self._database, "archive_bases"):
            # A reader of a journal of an earlier version.
            return {}
        of_these = f"WHERE series_uid IN (SELECT series_uid FROM archive_series {which})"
        check_rows(self._database, "archive_bases", of_these, values)
        rows = self._database.execute(
            f"SELECT series_uid, num_instances, uids_sha256 FROM archive_bases {of_these}", values
        )
        return {uid: Basis(number, uids_sha256) for uid, number, uids_sha256 in rows}

    @cached_property
    def _salt(self) -> str:
        return str(self._execute("SELECT salt FROM archive_salt")[0][0])

    def _execute(self, statement: str, values: Sequence[object] = ()) -> list[Any]:
        with damage_named(self._path):
            return self._database.execute(statement, tuple(values)).fetchall()
