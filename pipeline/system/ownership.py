"""Know which files Trivox wrote, so that a person's are never overwritten or removed.

A folder that Trivox writes into has a private folder. What is written below is recorded there:

    FOLDER/.trivox/written/<path>.sha256     of what was written to FOLDER/<path>
    FOLDER/.trivox/replaced/<time>/<path>    what lay at FOLDER/<path> and was something else

So a file that somebody put there, or changed, is moved aside before another one takes its name.
"""

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.system.private import (
    PRIVATE,
    check_private,
    is_private,
    make_private_folder,
    open_own,
    read_own,
)

logger = logging.getLogger(__name__)

WRITTEN, REPLACED = f"{PRIVATE}/written", f"{PRIVATE}/replaced"

_DIGEST = re.compile("[0-9a-f]{64}")


def claim(folder: Path) -> None:
    """Record from now on what is written below a folder, unless a folder above it does so.

    Raises:
        ConfigError: If something lies in its place that others could have put there.
    """
    home = next(_homes(folder / "file"), None)
    if home is None:
        make_private_folder(folder)
    else:
        check_private(home / PRIVATE)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; a file in the place of one is set aside.

    Raises:
        OSError: If it cannot be made, or no folder above records what was written.
    """
    home = next(_homes(folder), None)
    if home is not None:
        below = folder.absolute().relative_to(home).parts
        for each in (home.joinpath(*below[: n + 1]) for n in range(len(below))):
            if os.path.lexists(each) and not each.is_dir():
                set_aside(each, home)
        # What a killed run leaves half written is looked for where there are records.
        with suppress(OSError):
            (home / WRITTEN).joinpath(*below).mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)


def is_ours(path: Path) -> bool:
    """Tell whether a file is what Trivox wrote there, by the records of the folders above it."""
    return _our_digest(path) is not None


def is_changed(path: Path) -> bool:
    """Tell whether a file is another one than Trivox wrote there; False if nothing is recorded."""
    recorded = any(_recorded(home, path) for home in _homes(path))
    return recorded and os.path.lexists(path) and not is_ours(path)


def make_way(target: Path, new: Path) -> None:
    """Record that the file `new` is about to become `target`; set aside what is not ours there.

    Does nothing where no folder above records what is written.
    """
    home = next(_homes(target), None)
    if home is not None:
        # Killed before the file has its name, the record still knows the old one.
        _record(home, target, [_digest_of(new), *_clear(target, home)])


def check_free(paths: Iterable[Path], *, replace: bool) -> None:
    """Refuse to write where something lies, unless that may be set aside.

    Raises:
        ConfigError: If something lies there and nobody said that it may be replaced.
    """
    for path in paths:
        if not replace and os.path.lexists(path):
            remedy = "Choose another name, or add --replace: what is there is kept in"
            raise ConfigError(path, "exists already", f"{remedy} {REPLACED}/ then.")


def set_aside(path: Path, folder: Path | None = None) -> Path:
    """Move a file or folder to `folder/.trivox/replaced/<time>/`, where nothing is ever removed.

    Args:
        path: What to move; a link is moved itself, not what it points to.
        folder: Lies above it; without it, the nearest that records what is written, or its own.

    Returns:
        Where it is now.
    """
    folder = folder or next(_homes(path), path.parent)
    kept = make_private_folder(folder) / Path(REPLACED).name
    name = path.absolute().relative_to(folder.absolute())
    time = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    number = 1
    while os.path.lexists(target := kept / (time if number == 1 else f"{time}-{number}") / name):
        number += 1
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(path, target)
    logger.warning("%s is kept as %s", path, target)
    return target


def remove(path: Path) -> None:
    """Remove a file, or a folder with all in it; what is not ours is set aside.

    Where no folder above records what is, all is removed. Nothing there is fine, too.
    """
    home = next(_homes(path), None)
    if path.is_dir() and not path.is_symlink():
        for each in sorted(path.iterdir()):
            remove(each)
        # It is not empty if something was written to it meanwhile.
        with suppress(OSError):
            path.rmdir()
    else:
        if home is not None:
            _clear(path, home)
        with suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()


def _homes(path: Path) -> Iterator[Path]:
    """Yield the folders above a path that record what is written, the nearest first."""
    for folder in path.absolute().parents:
        # One that others can write to could have anything recorded, or lead elsewhere.
        if is_private(folder / PRIVATE):
            yield folder


def _record_of(home: Path, path: Path) -> Path:
    name = path.absolute().relative_to(home)
    return home / WRITTEN / name.with_name(f"{name.name}.sha256")


def _recorded(home: Path, path: Path) -> list[str]:
    """Return the SHA-256 of what was written to a path last, and before."""
    try:
        words = read_own(_record_of(home, path)).decode("ascii").split()
    except (OSError, ValueError, ConfigError):
        return []
    return words if all(map(_DIGEST.fullmatch, words)) else []


def _record(home: Path, path: Path, digests: list[str]) -> None:
    """Record what is written to a path; without a record, it would be set aside some day."""
    record = _record_of(home, path)
    with suppress(OSError):
        record.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(record) and not _recorded(home, path):
            set_aside(record, home)
        with os.fdopen(open_own(record, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
            file.write("\n".join(digests).encode("ascii"))


def _our_digest(path: Path) -> str | None:
    """Return the SHA-256 of a file that is what Trivox wrote there; None for anything else."""
    known = {digest for home in _homes(path) for digest in _recorded(home, path)}
    if not known or path.is_symlink() or not path.is_file():
        return None
    digest = _digest_of(path)
    return digest if digest in known else None


def _clear(path: Path, home: Path) -> list[str]:
    """Set aside what lies at a path unless it is ours; return the SHA-256 of what is left there."""
    digest = _our_digest(path)
    if digest is not None:
        return [digest]
    if os.path.lexists(path):
        set_aside(path, home)
    return []


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
