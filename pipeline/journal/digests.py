"""A digest with each row of a journal: SQLite itself keeps none.

Each table has a column `digest`, which triggers of the writer's connection keep; the names of the
table and of its columns go into it. A journal of an earlier version has none, and is taken as it
is. SQLite has a checksum for each change in the `-wal` file by itself: one that is damaged there is
left out, with all later ones.

Source: sqlite.org/pragma.html, sqlite.org/fileformat2.html.
"""

import hashlib
import sqlite3
from collections.abc import Sequence

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
