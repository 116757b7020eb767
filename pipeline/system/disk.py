"""Say by name what cannot be written, and that its disk is full, whatever a library says of it.

numpy raises an `OSError` without a number, torch a `RuntimeError`, safetensors an error of its own;
others leave out the path, or name the temporary one.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Numbers of the errors that say that a disk, or one's share of it, is full."""

_ROOM = 1 << 24
"""Bytes free on a disk that nothing can have filled up that is gone by now."""

_NOTHING_LEFT = 1 << 16
"""Bytes free where an error that has no number is taken for a full disk."""

_SAYS_FULL = ("No space left on device", "Disk quota exceeded", "os error 28")

_SILENT = "Look whether its disk or share answers, and run the same command again."
_REMEDIES = {
    errno.ENAMETOOLONG: "Use a shorter name or path.",
    errno.EACCES: "Mend its permissions, or those of the folders above it.",
    errno.EPERM: "Mend its permissions, or those of the folders above it.",
    errno.EROFS: "Name a folder on a disk that can be written to.",
    errno.ENOENT: "Check the path.",
    errno.ENOTDIR: "Check the path.",
    errno.EISDIR: "Check the path.",
    errno.EEXIST: "Check the path.",
    errno.ELOOP: "Mend the links on this path, which lead to each other.",
    errno.EMFILE: "Allow more open files (`ulimit -n 4096`), and run the same command again.",
    errno.ENFILE: "End other programs, or allow more open files on this machine.",
    errno.ENOMEM: "Free memory, and run the same command again.",
    errno.EIO: "Check its disk or share, which may be failing, and run the same command again.",
    errno.ESTALE: "Mount its share anew, and run the same command again.",
    errno.ENOTCONN: "Mount its share anew, and run the same command again.",
    errno.ETIMEDOUT: _SILENT,
    errno.EHOSTDOWN: _SILENT,
    errno.EHOSTUNREACH: _SILENT,
}
_BY_NO_FILE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""What the system lacks, whichever file is opened."""


@dataclass(frozen=True)
class Refusal:
    """What the system refused, told by its number and file.

    Attributes:
        where: The file or folder; empty if the error names none.
        what: What was found there.
        remedy: What the user can do, as a sentence.
        is_full: Whether a disk is full.
    """

    where: str
    what: str
    remedy: str
    is_full: bool


def explain(error: OSError) -> Refusal:
    """Return what an error of the system means to a user."""
    if is_time_out(error):
        remedy = "Run the same command again: what is done stays."
        return Refusal("", str(error) or "something did not answer in time", remedy, is_full=False)
    where = "" if error.filename is None else os.fsdecode(error.filename)
    if is_full(error):
        where = _in_temporary(where or str(_place_of_full()))
        what = error.strerror or "the disk is full"
        return Refusal(where, what, "Free space there.", is_full=True)
    what = error.strerror or str(error) or "the system refused to read or write"
    if error.errno in _BY_NO_FILE:
        where = where or "this machine"
    remedy = _REMEDIES.get(error.errno or 0, "Check the path, its permissions, the disk.")
    return Refusal(where, what, remedy, is_full=False)


def remedy_of(error: OSError, otherwise: str) -> str:
    """Return what helps against what the system refused, though the file itself may be good.

    Args:
        error: Of opening or reading a file.
        otherwise: What helps where the file is not there, or is something else.
    """
    is_about_name = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
    return otherwise if is_about_name else _REMEDIES.get(error.errno or 0, otherwise)


def in_one_line(error: OSError) -> str:
    """Return what an error of the system means as one line."""
    found = explain(error)
    return f"{found.where}: {found.what}. {found.remedy}".removeprefix(": ")


def _in_temporary(where: str) -> str:
    """Return the folder for temporary files in place of a file there, whose name says nothing."""
    folder = tempfile.gettempdir()
    below = os.path.relpath(where, folder)
    is_made_there = below.startswith("tmp") or below == os.curdir
    return f"TMPDIR ({folder})" if is_made_there else where


def is_full(error: BaseException | None) -> bool:
    """Tell whether an error says that a disk, or one's share of it, is full."""
    return isinstance(error, OSError) and error.errno in FULL


def is_time_out(error: BaseException | None) -> bool:
    """Tell whether something else than a file kept one waiting, though Python calls it `OSError`.

    What the system says of a share that does not answer has a number.
    """
    return isinstance(error, TimeoutError) and error.errno is None


def of_machine(error: BaseException) -> OSError | None:
    """Return what the machine lacked behind an error, whatever a reader made of it; None: nothing.

    A full disk, too many open files, no memory: no input is to blame for those.
    """
    seen: BaseException | None = error
    for _ in range(20):
        if seen is None:
            return None
        if isinstance(seen, OSError) and seen.errno in (*FULL, *_BY_NO_FILE):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


@contextmanager
def errors_named(target: Path, temporary: Path | None = None) -> Iterator[None]:
    """Let errors of writing a file or folder name it, and tell where its disk is full.

    Args:
        target: What is being written.
        temporary: Where it is written to meanwhile, if elsewhere.

    Raises:
        OSError: With number, text and path, in place of what the block raised where that was about
            the writing.
    """
    try:
        yield
    except Exception as error:
        number = getattr(error, "errno", None)
        if is_full(error) and _is_elsewhere(error, target, temporary):
            raise
        if number in FULL or (number is None and _is_full(error, target)):
            text = f"the disk is full: {in_words(_room(target, temporary))} were free for it"
            raise OSError(number or errno.ENOSPC, text, str(target)) from error
        if isinstance(error, OSError) and _is_about(error, temporary):
            raise OSError(number or errno.EIO, error.strerror or str(error), str(target)) from error
        raise


def free_bytes(path: Path) -> int:
    """Return what is free for a user on the disk that a path lies on, or will lie on."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def in_words(num_bytes: int) -> str:
    """Return a number of bytes as people read it, such as "1.5 GB" for 1.5 x 10^9."""
    for power, unit in ((9, "GB"), (6, "MB")):
        if num_bytes >= 10**power:
            return f"{num_bytes / 10**power:.1f} {unit}"
    return f"{num_bytes / 1000:.1f} kB"


def _is_full(error: Exception, target: Path) -> bool:
    if any(text in str(error) for text in _SAYS_FULL):
        return True
    return isinstance(error, OSError | RuntimeError) and free_bytes(target) < _NOTHING_LEFT


def _is_elsewhere(error: Exception, target: Path, temporary: Path | None) -> bool:
    """Tell whether it is another disk that is full: libraries have files in TMPDIR, too."""
    name = getattr(error, "filename", None)
    if name is None:
        return free_bytes(target) > _ROOM and _place_of_full() == Path(tempfile.gettempdir())
    ours = (target.parent, temporary or target.parent)
    return not any(Path(os.fsdecode(name)).is_relative_to(each) for each in ours)


def _place_of_full() -> Path:
    """Return which disk an error without a path is about: of those in use, the fullest."""
    places = (Path(tempfile.gettempdir()), Path.cwd())
    return min(places, key=free_bytes)


def _is_about(error: OSError, temporary: Path | None) -> bool:
    if error.filename is None:
        # Those of libraries and of connections keep their type, which others look at.
        return error.errno is not None or type(error) is OSError
    return temporary is not None and str(error.filename).startswith(str(temporary))


def _room(target: Path, temporary: Path | None) -> int:
    """Return what was free before the writing began."""
    room = free_bytes(target)
    for folder, _, names in os.walk(temporary or ""):
        for name in names:
            with suppress(OSError):
                room += Path(folder, name).stat().st_blocks * 512
    return room
