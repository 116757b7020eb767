"""The folder that a run's security rests on, and one run at a time in it.

Who may write to it could replace the journal, the salt of the names, or the keys of a cluster; who
may put a link there could have other files written. So it is looked at before it is used, and its
files are opened without following links.
"""

import contextlib
import errno
import os
import re
import shlex
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pipeline.errors import ConfigError, PipelineError

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


LOCK = f"{PRIVATE}/lock"
ARCHIVE_LOCK = f"{PRIVATE}/archive.lock"
"""Held by a round trip to an archive, which consists of many runs."""

RUN_LOCK = ".lock"
"""Held in its folder by a training, and by what changes its model afterwards."""

PATIENCE_S = 10.0
"""A run that was just ended may hold the lock for a moment longer."""


@dataclass(frozen=True)
class Held:
    """A folder that is this run's own, as long as it is there.

    Attributes:
        out: The folder.
        lock: The file that is locked.
        found: What that file is, wherever it lies by now.
    """

    out: Path
    lock: Path
    found: os.stat_result

    def check(self, *others: tuple[Path, os.stat_result]) -> None:
        """Make sure that what was opened still lies where it was opened.

        Files that are open go on without a name, and folders are made anew: nobody would notice.

        Args:
            others: Further files that are open, and what they are.

        Raises:
            PipelineError: If the folder, or such a file, was removed, moved or replaced.
        """
        for path, found in ((self.lock, self.found), *others):
            if not _is_same(path, found):
                what = f"while the run went on, {path.name} in it was removed, moved or replaced"
                if not path.parent.exists() or path == self.lock:
                    what = "the folder was removed, moved or replaced while the run went on"
                remedy = "Put it back if it was moved, and run the same command again."
                error = PipelineError(self.out, what, remedy)
                error.exit_code = 1
                raise error


@contextmanager
def only_run(
    out: Path, patience_s: float | None = None, remedy: str = "", lock: str = LOCK
) -> Iterator[Held]:
    """Keep other runs out of a folder for the length of a block.

    The system frees the lock however the process ends. A folder that holds nothing else at the end
    is removed.

    Args:
        out: The folder; made if it is not there.
        patience_s: How long to wait for another run; `PATIENCE_S` by default.
        remedy: What to do about another run, if not what helps where studies are segmented.
        lock: The file in the folder that is locked.

    Yields:
        What tells whether the folder is still the one that was locked.

    Raises:
        ConfigError: If another run has it, with the process and the machine that it runs on.
    """
    with _locked(out, lock, PATIENCE_S if patience_s is None else patience_s) as file:
        if file is None:
            found = f"another run is writing to this folder{_holder(out / lock)}"
            look = f"trivox status {shlex.quote(str(out))}"
            usual = f"Wait for it (`{look}`), stop it, or name another folder."
            raise ConfigError(out, found, remedy or usual)
        _check_ours(out / lock)
        file.truncate(0)
        file.write(f"{os.getpid()} {socket.gethostname()}")
        file.flush()
        held = Held(out, out / lock, os.fstat(file.fileno()))
        try:
            yield held
        finally:
            if _is_same(held.lock, held.found):
                _remove_if_alone(out, out / lock)


@contextmanager
def _locked(out: Path, lock: str, patience_s: float) -> Iterator[IO[str] | None]:
    """Give the locked file, or None if another process keeps it."""
    deadline = time.monotonic() + patience_s
    while True:
        path = out / lock
        if path.parent == out:
            out.mkdir(parents=True, exist_ok=True)
        else:
            make_private_folder(out)
        # Beside what a run publishes, others of its group may have to lock it, too.
        mode = 0o666 if path.parent == out else PRIVATE_FILE
        descriptor = open_own(path, os.O_RDWR | os.O_CREAT, mode)
        with os.fdopen(descriptor, "r+", encoding="utf-8") as file:
            is_ours = _try(file)
            # Unless its last holder has just removed it.
            if is_ours and _is_same(path, os.fstat(descriptor)):
                yield file
                return
        if time.monotonic() > deadline:
            yield None
            return
        time.sleep(0.1)


def _is_same(path: Path, found: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.lstat(), found)
    except OSError:
        return False


def _check_ours(path: Path) -> None:
    """Refuse to write over what is no lock."""
    if not re.fullmatch(rb"(\d+ \S+)?", path.read_bytes()):
        raise ConfigError(path, "is no lock that Trivox wrote", "Rename the file.")


def _holder(path: Path) -> str:
    """Say who holds the lock, as far as the file tells."""
    try:
        pid, _, host = path.read_text("utf-8").partition(" ")
    except (OSError, ValueError):
        return ""
    return f" (process {pid} on {host})" if pid.isdecimal() and host else ""


def _remove_if_alone(out: Path, lock: Path) -> None:
    with contextlib.suppress(OSError):
        if {*out.iterdir(), *lock.parent.iterdir()} <= {lock, lock.parent}:
            lock.unlink()
            if lock.parent != out:
                lock.parent.rmdir()
            out.rmdir()


def is_locked(out: Path, lock: str = LOCK) -> bool:
    """Tell whether a run is writing to a folder now, by the file that it locks."""
    try:
        with os.fdopen(open_own(out / lock, os.O_RDWR), "r+") as file:
            return not _try(file)
    except (OSError, ConfigError):
        return False


def _try(file: IO[str]) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows has no such locks; the journal still holds one writer at a time.
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # Some network file systems (Lustre without `flock`) know no locks: nobody holds one then.
        return error.errno in (errno.ENOSYS, errno.EOPNOTSUPP)
    return True
