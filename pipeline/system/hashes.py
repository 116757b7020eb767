"""Tell damage from content: the hashes of files that are read again, in a table beside them.

Each folder has a table of its own, `hashes.json`, which carries the hash of itself. The table is
written before a file takes its place and keeps the hashes before it too, so that a run that is
killed between the two finds nothing wrong. A file that is in no table was written by an earlier
version: nothing is known of it.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pipeline.errors import PipelineError
from pipeline.system.documents import read_json
from pipeline.system.files import atomic_path, link_or_copy, sha256_of, write_text

TABLE = "hashes.json"


KEPT = 4
"""Hashes of a file that count as its own: the last, and those that a killed run did not replace."""

State = Literal["whole", "damaged", "unknown"]
Hashes = dict[str, list[str]]


@contextmanager
def noted_path(target: Path) -> Iterator[Path]:
    """Do what `atomic_path` does, and enter the new file's hash in the table beside it."""
    with atomic_path(target) as temporary:
        yield temporary
        _enter(target.parent, {target.name: [sha256_of(temporary)]})


def write_noted(target: Path, text: str) -> None:
    """Write `text` to `target` as UTF-8, atomically, and enter its hash."""
    with noted_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def link_noted(source: Path, target: Path) -> None:
    """Do what `link_or_copy` does, and enter the file's hash."""
    try:
        # Not computed: a copy of a damaged file is damaged.
        known = _read(source.parent).get(source.name)
    except ValueError:
        known = None
    _enter(target.parent, {target.name: known or [sha256_of(source)]})
    link_or_copy(source, target)


def note_all(folder: Path) -> None:
    """Enter the hashes of all files that lie in a folder, as they are."""
    paths = sorted(path for path in folder.iterdir() if path.is_file() and path.name != TABLE)
    _enter(folder, {path.name: [sha256_of(path)] for path in paths})


def state_of(path: Path, sha256: str | None = None) -> State:
    """Tell whether a file is what was written; damaged also if it is gone or the table is torn.

    Args:
        path: The file.
        sha256: Of its content, if that is known already.
    """
    try:
        known = _read(path.parent).get(path.name)
    except ValueError:
        return "damaged"
    if known is None:
        return "unknown"
    return _compare(path, known, sha256)


def _compare(path: Path, known: Sequence[str], sha256: str | None = None) -> State:
    if sha256 is None and path.is_file():
        sha256 = sha256_of(path)
    return "whole" if sha256 in known else "damaged"


def damaged_in(folder: Path) -> list[Path]:
    """Return the files of a folder that are not what was written, or gone; or its torn table."""
    try:
        table = _read(folder)
    except ValueError:
        return [folder / TABLE]
    found = ((folder / name, known) for name, known in table.items())
    return [path for path, known in found if _compare(path, known) == "damaged"]


def check_whole(
    path: Path,
    kind: type[PipelineError],
    remedy: str,
    what: str = "the file",
    *,
    sha256: str | None = None,
) -> None:
    """Refuse a file that is not what was written.

    Args:
        path: The file.
        kind: Of error to raise.
        remedy: What helps if the file is damaged.
        what: The file holds.
        sha256: Of what was read from it, if that is known already.

    Raises:
        PipelineError: Of that kind, if the file, or the table that it is in, is damaged.
    """
    if state_of(path, sha256) != "damaged":
        return
    table = path.with_name(TABLE)
    try:
        _read(path.parent)
    except ValueError as error:
        help_ = "Restore it, or remove it: the files in its folder are then taken as they are."
        raise kind(table, "the table of hashes is damaged", help_) from error
    how = "damaged: its hash does not fit" if path.exists() else "missing"
    raise kind(path, f"{what} is {how}", remedy)


def _read(folder: Path) -> Hashes:
    """Return the table of a folder; empty if there is none.

    Raises:
        ValueError: If it is damaged.
        PermissionError: If this user may not read it.
    """
    path = folder / TABLE
    if not os.path.lexists(path):
        return {}
    try:
        content = read_json(path, PipelineError)
        hashes: Hashes = content["files"]
        is_whole = content["sha256"] == _hash(hashes) and _is_table(hashes)
    except (PipelineError, ValueError, TypeError, KeyError) as error:
        if isinstance(error.__cause__, PermissionError):
            raise error.__cause__ from error
        raise ValueError(f"{path} is no table of hashes") from error
    if not is_whole:
        raise ValueError(f"{path} is damaged")
    return hashes


def _is_table(hashes: object) -> bool:
    """Tell whether this says of names in one folder what the hashes of each are."""
    return isinstance(hashes, dict) and all(
        "/" not in name and isinstance(known, list) and all(isinstance(each, str) for each in known)
        for name, known in hashes.items()
    )


def _enter(folder: Path, found: Mapping[str, list[str]]) -> None:
    try:
        hashes = _read(folder)
    except ValueError:
        hashes = {}
    for name, new in found.items():
        hashes[name] = list(dict.fromkeys([*new, *hashes.get(name, ())]))[:KEPT]
    content = {"files": hashes, "sha256": _hash(hashes)}
    write_text(folder / TABLE, json.dumps(content, indent=1))


def _hash(hashes: Hashes) -> str:
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
