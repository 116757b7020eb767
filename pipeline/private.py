"""The folder that a run's security rests on: real, the user's own, and for nobody else to write to.

Who may write to it could replace the journal, the salt of the names, or the keys of a cluster; who
may put a link there could have other files written. So it is looked at before it is used, and its
files are opened without following links.
"""

import errno
import os
import shlex
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from pipeline.errors import ConfigError

PRIVATE = ".trivox"
"""Folder in the output folder that only its owner may read: what a run must remember."""

PRIVATE_FILE = 0o600
_FOLDER_MODE = 0o700
_WRITTEN_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def make_private_folder(out: Path) -> Path:
    """Return the private folder of an output folder; the first call makes it.

    Raises:
        ConfigError: If something lies in its place that others could have put there.
    """
    folder = out / PRIVATE
    try:
        folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        blocker = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
        remedy = "Choose another folder, or rename it."
        raise ConfigError(blocker, "is a file where a folder is needed", remedy) from error
    check_private(folder)
    with suppress(OSError):
        if stat.S_IMODE(folder.lstat().st_mode) != _FOLDER_MODE:
            folder.chmod(_FOLDER_MODE)
    return folder


def check_private(folder: Path) -> None:
    """Refuse a folder that is no real one, belongs to somebody else or is open to others.

    Raises:
        ConfigError: With what is wrong with it, or with what lies in it.
    """
    fault = _fault_of(folder)
    if fault is not None:
        found, remedy = fault
        raise ConfigError(folder, found, remedy)
    with suppress(FileNotFoundError, PermissionError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_symlink():
                raise _is_link(Path(entry.path))


def is_private(folder: Path) -> bool:
    """Tell whether a folder is there, and is such a one."""
    try:
        return _fault_of(folder) is None and os.access(folder, os.R_OK | os.W_OK | os.X_OK)
    except OSError:
        return False


def open_own(path: Path, flags: int, mode: int = PRIVATE_FILE) -> int:
    """Open a file of our own without following links; return the descriptor.

    Args:
        path: The file.
        flags: How, as `os.open` has them.
        mode: Of a file that is made, before the umask; by itself for its owner alone.

    Raises:
        ConfigError: If it is a link, or no ordinary file.
        OSError: If it cannot be opened.
    """
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, mode)
    except OSError as error:
        if error.errno == errno.ELOOP and path.is_symlink():
            raise _is_link(path) from error
        if error.errno in (errno.EISDIR, errno.ENXIO):
            raise _is_no_file(path) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _is_no_file(path)
    return descriptor


def read_own(path: Path) -> bytes:
    """Return the bytes of a file in a private folder.

    Raises:
        ConfigError: As for `open_own`.
        OSError: If it cannot be read.
    """
    with os.fdopen(open_own(path, os.O_RDONLY), "rb") as file:
        return file.read()


def check_no_link(path: Path) -> None:
    """Refuse a link in the place of a file in a private folder.

    Raises:
        ConfigError: If it is one.
    """
    if path.is_symlink():
        raise _is_link(path)


def _fault_of(folder: Path) -> tuple[str, str] | None:
    """Return what keeps a folder from being private, and what helps; None: nothing."""
    found = folder.lstat()
    if stat.S_ISLNK(found.st_mode):
        return "is a link, not a folder of its own", "Remove the link, or choose another folder."
    if not stat.S_ISDIR(found.st_mode):
        return "is a file where a folder is needed", "Choose another folder, or rename it."
    if not hasattr(os, "geteuid"):
        return None
    is_own = found.st_uid == os.geteuid()
    is_closed = not found.st_mode & _WRITTEN_BY_OTHERS
    if (is_own and is_closed) or _is_like_new_ones(found, folder.parent):
        return None
    if not is_own:
        remedy = "Run this as that user, rename it, or choose another folder."
        return f"belongs to another user (number {found.st_uid})", remedy
    close = f"chmod go-w {shlex.quote(str(folder))}"
    remedy = f"If nobody else has written to it, run `{close}`; else rename it."
    return "may be written to by others", remedy


def _is_like_new_ones(found: os.stat_result, parent: Path) -> bool:
    """Tell whether folders made here right now look alike: some disks know no owners or modes."""
    try:
        with tempfile.TemporaryDirectory(prefix=".writing-", dir=parent) as made:
            new = Path(made).lstat()
    except OSError:
        return False
    is_closed = new.st_uid == os.geteuid() and not new.st_mode & _WRITTEN_BY_OTHERS
    return not is_closed and (new.st_uid, new.st_mode) == (found.st_uid, found.st_mode)


def _is_link(path: Path) -> ConfigError:
    found = "is a link, which Trivox does not put there and does not follow"
    return ConfigError(path, found, "Remove the link, or choose another folder.")


def _is_no_file(path: Path) -> ConfigError:
    return ConfigError(path, "is no ordinary file", "Rename it, or choose another folder.")
