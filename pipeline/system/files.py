"""Write files and tables so that a killed run never leaves one that looks finished.

A cell of text that a spreadsheet would run gets an apostrophe before it, as spreadsheets themselves
write such text; `plain_text` takes it away again. JSON files have the names as they are.

Source:
    OWASP, CSV Injection, https://owasp.org/www-community/attacks/CSV_Injection.
"""

import functools
import hashlib
import os
import re
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from pipeline.system.disk import errors_named
from pipeline.system.ownership import WRITTEN, make_folder, make_way, set_aside
from pipeline.system.private import PRIVATE

_TEMPORARY = ".writing-"
_MADE_HERE = re.compile(rf"{re.escape(_TEMPORARY)}(?P<pid>\d+-)?\w{{8}}")
"""Earlier versions put no number of a process into the name, and no lock into the folder."""
_LOCK = "lock"
_PART = re.compile(rf"file(\..*)?|\.tmp\w+|new|salt|{_LOCK}")
"""What a temporary folder holds; safetensors writes to a file of its own first."""

_KEYS = re.compile(r"keys-\w{8}")
_KEY_PART = re.compile(r"(ca|cert|key)\.pem")
_WITNESS = re.compile("trivox-[0-9a-f]{32}")
"""What a run on a cluster has in the private folder."""

_MADE_WITHIN_S = 2.0
"""That a run may take to lock a folder that it has just made."""

_LONG_S = 24 * 3600.0
"""After which a folder is left over whose lock cannot tell, or of a version without locks."""


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
        _publish(temporary, folder, target)
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
                _publish(written, folder, target)
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
        for found in _left_in(place):
            shutil.rmtree(found, ignore_errors=True)
    with suppress(OSError):
        for found in (folder / PRIVATE).iterdir():
            if _KEYS.fullmatch(found.name) and _holds_only(found, _KEY_PART):
                shutil.rmtree(found, ignore_errors=True)
            elif _WITNESS.fullmatch(found.name) and found.lstat().st_size == 0:
                found.unlink()


def _left_in(place: Path) -> Iterator[Path]:
    """Yield the temporary folders in a folder, dead or alive."""
    with suppress(OSError):
        names = [entry.name for entry in os.scandir(place) if entry.name.startswith(_TEMPORARY)]
        for found in (place / name for name in names if _MADE_HERE.fullmatch(name)):
            if _holds_only(found, _PART):
                yield found


def _holds_only(folder: Path, parts: re.Pattern[str]) -> bool:
    try:
        is_own = not folder.is_symlink() and folder.is_dir()
        return is_own and all(parts.fullmatch(each.name) for each in folder.iterdir())
    except OSError:
        return False


@functools.lru_cache(maxsize=1024)
def _sweep_dead(place: Path) -> None:
    """Remove what killed runs were writing to a folder, once; others may be writing there now."""
    for found in _left_in(place):
        if _is_dead(found):
            shutil.rmtree(found, ignore_errors=True)


def _is_dead(folder: Path) -> bool:
    """Tell whether nobody holds a temporary folder any more, as far as can be known."""
    try:
        times = [each.lstat().st_mtime for each in (folder, *folder.iterdir())]
        with tempfile.TemporaryFile(dir=folder.parent) as file:
            # By the clock of whoever keeps the files.
            age_s = os.fstat(file.fileno()).st_mtime - max(times)
    except OSError:
        return False
    match = _MADE_HERE.fullmatch(folder.name)
    if age_s > _LONG_S or match is None or match["pid"] is None:
        return age_s > _LONG_S
    return age_s > _MADE_WITHIN_S and _is_free(folder / _LOCK)


def _is_free(lock: Path) -> bool:
    """Tell whether a lock is held by nobody; one that was not even made is."""
    try:
        import fcntl

        with lock.open("r+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Some shared file systems keep locks to one machine.
            return file.read() in ("", socket.gethostname())
    except FileNotFoundError:
        return True
    except (ImportError, OSError, ValueError):
        return False


@contextmanager
def _folder_beside(target: Path) -> Iterator[Path]:
    with errors_named(target):
        make_folder(target.parent)
        _sweep_dead(target.parent.absolute())
        prefix = f"{_TEMPORARY}{os.getpid()}-"
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    try:
        with errors_named(target, folder), _held(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold the lock that tells others that somebody writes to a temporary folder."""
    with (folder / _LOCK).open("x", encoding="utf-8") as file:
        with suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.write(socket.gethostname())
        file.flush()
        yield


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


def _publish(path: Path, folder: Path, target: Path) -> None:
    """Bring a new file to disk, and give it the permissions that the umask says.

    Some libraries write by way of a temporary file, which is for its owner alone.
    """
    with path.open("rb+") as written:
        os.fsync(written.fileno())
    found = path.lstat()
    wanted = stat.S_IMODE((folder / _LOCK).lstat().st_mode)
    # A file that has a second name is somebody else's, too.
    is_new = found.st_nlink == 1 and PRIVATE not in target.parts
    if is_new and stat.S_IMODE(found.st_mode) & 0o666 != wanted:
        with suppress(OSError):
            path.chmod(wanted)


_LEAD: Final = r"[\s\x00-\x20\x7f-\xa0\xad\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff\"']*"
"""What spreadsheets may pass over before a formula, and an apostrophe that may be there already."""

_FORMULA = re.compile(rf"{_LEAD}[=+\-@\uff1d\uff0b\uff0d\uff20\u2212|%]")
_NUMBER = re.compile(rf"{_LEAD}[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*")
_BEGINS_AS_SEPARATOR = re.compile(r"'*[\t\r\n]")
_SEPARATOR = re.compile(r"([;\t\r\n])")
"""Spreadsheets of many countries separate cells by semicolons, also within those of a comma."""


def csv_text(rows: Iterable[Sequence[object]], *, delimiter: str = ",") -> str:
    """Return rows as a table. Numbers stay numbers, None becomes an empty cell.

    Args:
        rows: The first holds the headings.
        delimiter: Between cells.
    """
    lines = (delimiter.join(_cell(cell, delimiter) for cell in row) for row in rows)
    return "".join(f"{line}\n" for line in lines)


def _cell(cell: object, delimiter: str) -> str:
    if not isinstance(cell, str):
        return "" if cell is None else str(cell)
    text = safe_text(cell)
    # Python's writer of CSV leaves a carriage return alone, which ends the line for its reader.
    if any(each in text for each in (delimiter, '"', "\n", "\r")):
        return '"{}"'.format(text.replace('"', '""'))
    return text


def safe_text(text: str) -> str:
    """Return the text of a cell so that no spreadsheet runs it."""
    if text.isalnum():
        return text
    safe = "".join(f"'{part}" if _is_formula(part) else part for part in _SEPARATOR.split(text))
    return f"'{safe}" if _BEGINS_AS_SEPARATOR.match(safe) else safe


def plain_text(cell: str) -> str:
    """Return what a cell stands for that `safe_text` wrote."""
    if cell.startswith("'") and _BEGINS_AS_SEPARATOR.match(cell, 1):
        cell = cell[1:]
    return "".join(
        part[1:] if part.startswith("'") and _is_formula(part[1:]) else part
        for part in _SEPARATOR.split(cell)
    )


def _is_formula(part: str) -> bool:
    return _FORMULA.match(part) is not None and _NUMBER.fullmatch(part) is None
