"""Write files so that a killed run never leaves one that looks finished; name files by content."""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.disk import errors_named
from pipeline.ownership import PRIVATE, WRITTEN, make_folder, make_way, set_aside

_TEMPORARY = ".writing-"
_MADE_HERE = re.compile(rf"{re.escape(_TEMPORARY)}\w{{8}}")
_PART = re.compile(r"file(\..*)?|new|salt")
"""What a temporary folder holds."""


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Give a temporary path to write to, which becomes `target` when the block ends well.

    The temporary file lies beside `target` and ends in the same suffixes, so that libraries which
    choose a format by suffix do the right thing. Its bytes are on disk before the rename. If the
    block raises, the temporary file is removed and `target` stays as it was. What lies there and
    is not ours is set aside first, where a folder above records what is.

    Args:
        target: The file to write. Its folder is created.

    Raises:
        OSError: With the path of `target`, if it cannot be written.
    """
    with _folder_beside(target) as folder:
        suffix = "".join(target.suffixes[-2:]) if target.suffix == ".gz" else target.suffix
        temporary = folder / f"file{suffix}"
        yield temporary
        _to_disk(temporary)
        make_way(target, temporary)
        temporary.replace(target)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Give a temporary folder to put files in, which becomes `target` when the block ends well.

    Args:
        target: The folder to write. One that is there already is kept: its name says its content,
            and another run may be reading it.

    Raises:
        OSError: With the path of `target`, if it cannot be written.
    """
    with _folder_beside(target) as folder:
        temporary = folder / "new"
        temporary.mkdir()
        yield temporary
        for written in temporary.rglob("*"):
            if written.is_file():
                _to_disk(written)
        if os.path.lexists(target) and not target.is_dir():
            set_aside(target)
        try:
            temporary.rename(target)
        except OSError:
            if not target.is_dir():
                raise


def sweep(folder: Path) -> None:
    """Remove what a killed run was writing below a folder, where nobody writes any more."""
    written = folder / WRITTEN
    places = [folder / record.relative_to(written) for record in written.rglob("*/")]
    for place in (folder, folder / PRIVATE, *places):
        for found in place.glob(f"{_TEMPORARY}*"):
            if not _MADE_HERE.fullmatch(found.name) or not found.is_dir():
                continue
            if all(_PART.fullmatch(each.name) for each in found.iterdir()):
                shutil.rmtree(found, ignore_errors=True)


@contextmanager
def _folder_beside(target: Path) -> Iterator[Path]:
    with errors_named(target):
        make_folder(target.parent)
        folder = tempfile.TemporaryDirectory(prefix=_TEMPORARY, dir=target.parent)
    with folder as name, errors_named(target, Path(name)):
        yield Path(name)


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
