"""Write files so that a killed run never leaves one that looks finished; name files by content."""

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

logger = logging.getLogger(__name__)

PRIVATE = ".trivox"
"""Folder in an output folder that only its owner may read: what a run must remember."""

REPLACED = f"{PRIVATE}/replaced"
"""What lay where something else was to be written, by the time at which it was moved."""


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Give a temporary path to write to, which becomes `target` when the block ends well.

    The temporary file lies beside `target` and ends in the same suffixes, so that libraries which
    choose a format by suffix do the right thing. Its bytes are on disk before the rename. If the
    block raises, the temporary file is removed and `target` stays as it was.

    Args:
        target: The file to write. Its folder is created.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    suffix = "".join(target.suffixes[-2:]) if target.suffix == ".gz" else target.suffix
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=target.parent) as folder:
        temporary = Path(folder) / f"file{suffix}"
        yield temporary
        _to_disk(temporary)
        temporary.replace(target)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Give a temporary folder to put files in, which becomes `target` when the block ends well.

    Args:
        target: The folder to write. One that is there already is kept: its name says its content,
            and another run may be reading it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=target.parent) as folder:
        temporary = Path(folder) / "new"
        temporary.mkdir()
        yield temporary
        for written in temporary.rglob("*"):
            if written.is_file():
                _to_disk(written)
        try:
            temporary.rename(target)
        except OSError:
            if not target.is_dir():
                raise


def write_text(target: Path, text: str) -> None:
    """Write `text` to `target` as UTF-8, atomically."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a file of the same content as `source`, without using disk where it can.

    Files that are only ever replaced, never written into, may share their bytes: so a hard link
    will do, and a copy where the file system knows none.
    """
    with atomic_path(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def set_aside(paths: Iterable[Path], out: Path, why: str) -> Path | None:
    """Move files out of the way, to `.trivox/replaced/<time>/` in their output folder.

    Args:
        paths: In `out`, at any depth; those that are not there are left out.
        out: The output folder.
        why: Put before their names in the one line of the log, such as "changed by somebody else".

    Returns:
        The folder that holds them now, under their paths in `out`; None if none was there.

    Raises:
        OSError: If they cannot be moved.
    """
    names = [path.relative_to(out) for path in paths if os.path.lexists(path)]
    if not names:
        return None
    (out / PRIVATE).mkdir(mode=0o700, exist_ok=True)
    folder = _new_folder(out / REPLACED / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(out / name, folder / name)
    moved = ", ".join(map(str, names))
    logger.warning("%s: %s; moved to %s", why, moved, folder.relative_to(out))
    return folder


def _new_folder(wanted: Path) -> Path:
    """Make a folder of this name, or of this name and a number, and return it."""
    wanted.parent.mkdir(parents=True, exist_ok=True)
    folder, number = wanted, 1
    while folder.exists():
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    folder.mkdir()
    return folder


def sha256_of(*paths: Path) -> str:
    """Return the SHA-256 of the contents of `paths`, one after the other, as hexadecimal text."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _to_disk(path: Path) -> None:
    with path.open("rb+") as written:
        os.fsync(written.fileno())
