"""The SQLite file that an output folder remembers by: opened, digested, its errors explained.

Each table has a column `digest`, which triggers of the writer's connection keep; the names of the
table and of its columns go into it. A journal of an earlier version has none, and is taken as it
is. SQLite has a checksum for each change in the `-wal` file by itself: one that is damaged there is
left out, with all later ones.

Source: sqlite.org/pragma.html, sqlite.org/fileformat2.html, sqlite.org/wal.html.
"""

import hashlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.system.private import PRIVATE, check_no_link, open_own

_COLUMN = "digest"
_TABLES = "SELECT name FROM sqlite_master WHERE type='table' AND name NOT LIKE 'sqlite_%'"


def add_function(database: sqlite3.Connection) -> None:
    """Make the function known that the statements below call."""
    database.create_function(_COLUMN, -1, _digest, deterministic=True)


def check_all(database: sqlite3.Connection) -> None:
    """Check the whole file, as it is at one moment.

    Raises:
        ValueError: If it is not what was written.
        sqlite3.Error: If it cannot even be read.
    """
    with database:
        database.execute("BEGIN")
        found = database.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            raise ValueError(" ".join(str(found).split()))
        for (table,) in database.execute(_TABLES).fetchall():
            check_rows(database, table)


def check_rows(
    database: sqlite3.Connection, table: str, which: str = "", values: Sequence[object] = ()
) -> None:
    """Check the rows of a table that a clause (WHERE) names, or all.

    Raises:
        ValueError: If one is not what was written.
    """
    columns = _columns(database, table)
    if _COLUMN not in columns:
        return
    statement = f"SELECT count(*) FROM (SELECT * FROM {table} {which}) WHERE {_COLUMN} IS NOT "
    number = database.execute(statement + _call(table, columns), tuple(values)).fetchone()[0]
    if number:
        raise ValueError(f"{number} rows of {table} are not what was written")


def keep_digests(database: sqlite3.Connection) -> None:
    """Add digests where there are none yet, and keep those of all rows written from now on.

    Call it within a transaction, after tables are made.
    """
    for (table,) in database.execute(_TABLES).fetchall():
        columns = _columns(database, table)
        seal = f"UPDATE {table} SET {_COLUMN} = {_call(table, columns)}"
        if _COLUMN not in columns:
            database.execute(f"ALTER TABLE {table} ADD COLUMN {_COLUMN} TEXT")
            database.execute(seal)
        others = ", ".join(name for name in columns if name != _COLUMN)
        for event in ("INSERT", f"UPDATE OF {others}"):
            database.execute(
                f"CREATE TEMP TRIGGER {table}_{event[:6]} AFTER {event} ON main.{table} "
                f"BEGIN {seal} WHERE rowid = new.rowid; END"
            )


def _columns(database: sqlite3.Connection, table: str) -> list[str]:
    found = database.execute("SELECT name FROM pragma_table_info(?)", (table,))
    return [name for (name,) in found]


def _call(table: str, columns: Sequence[str]) -> str:
    """Return the SQL for a row's digest; the names of its columns are part of it."""
    names = [name for name in columns if name != _COLUMN]
    return f"{_COLUMN}('{' '.join([table, *names])}', {', '.join(names)})"


def _digest(*values: object) -> str:
    return hashlib.sha256(ascii(values).encode()).hexdigest()[:16]


JOURNAL = f"{PRIVATE}/journal.sqlite"

_BUSY_MS = 30_000
_BESIDE = ("-wal", "-shm", "-journal")
"""Endings of the files that SQLite keeps beside a database."""

_LEAST_BYTES = 512
"""Of a file that is not empty: one page. SQLite takes a shorter one as empty."""
_NOT_DAMAGE = (
    *("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_READONLY"),
    *("SQLITE_AUTH", "SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_NOMEM", "SQLITE_INTERRUPT"),
    *("SQLITE_PROTOCOL", "SQLITE_NOLFS"),
)
"""What SQLite says of disks and permissions. All else it says of files that are torn, none of its
own, of another version, or changed by somebody."""

_DAMAGE_AFTER_ALL = ("SQLITE_IOERR_SHORT_READ", "SQLITE_IOERR_CORRUPTFS")

_START_ANEW = (
    "Rename it, with the -wal and -shm beside it, and run the same command again: a new journal is "
    "made, and masks that are whole and match their input are kept."
)


def open_database(path: Path, *, is_reader: bool = False) -> sqlite3.Connection:
    """Open a journal's file, and check all that it holds.

    Each statement is a transaction unless one is begun.

    Args:
        path: The file; its folder exists.
        is_reader: Whether nothing will be written; the file must be there then.

    Raises:
        ConfigError: If it is a link, or no ordinary file.
        OSError: If it cannot be made.
        sqlite3.Error: If it cannot be opened; see `damage_named`.
        ValueError: If it is not what was written; the same.
    """
    for name in (path.name, *(f"{path.name}{ending}" for ending in _BESIDE)):
        check_no_link(path.with_name(name))
    if not is_reader:
        # The files beside it inherit its permissions.
        os.close(open_own(path, os.O_CREAT | os.O_RDWR))
    database = sqlite3.connect(
        f"{path.absolute().as_uri()}{'?immutable=1' * _is_frozen(path)}",
        timeout=_BUSY_MS / 1000,
        isolation_level=None,
        check_same_thread=False,
        uri=True,
    )
    try:
        if 0 < path.stat().st_size < _LEAST_BYTES:
            raise ValueError("it is too short")
        database.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
        add_function(database)
        check_all(database)
        if not is_reader:
            database.execute("PRAGMA journal_mode=WAL")
    except BaseException:
        database.close()
        raise
    return database


def make_tables(database: sqlite3.Connection, statements: str) -> None:
    """Make the tables that are not there yet, and keep digests of all rows from now on."""
    with database:
        database.executescript(f"BEGIN IMMEDIATE; {statements}")
        keep_digests(database)


def has_table(database: sqlite3.Connection, name: str) -> bool:
    """Tell whether a table was made: a cohort and an archive's round trip have their own."""
    found = database.execute("SELECT 1 FROM sqlite_master WHERE name=?", (name,))
    return found.fetchone() is not None


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn what is wrong with a journal into a `PipelineError` that says what to do about it."""
    try:
        yield
    except (LookupError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        found = f"the journal is damaged or of another version ({error})"
        raise PipelineError(path, found, _START_ANEW) from error
    except sqlite3.Error as error:
        remedy = "Free space on the disk, check the folder's permissions, and run again."
        # What is no text where text should be has no such name.
        name = getattr(error, "sqlite_errorname", "")
        if name in _DAMAGE_AFTER_ALL or not name.startswith(_NOT_DAMAGE):
            remedy = _START_ANEW
        # Of a damaged schema, SQLite repeats the text, over many lines.
        reason = str(error).partition(" (")[0].partition("\n")[0]
        raise PipelineError(path, f"the journal cannot be used ({reason})", remedy) from error


def _is_frozen(path: Path) -> bool:
    """Tell whether nobody writes here: SQLite then must not want files beside the journal."""
    has_log = path.with_name(f"{path.name}-wal").exists()
    return not has_log and not os.access(path.parent, os.W_OK)
