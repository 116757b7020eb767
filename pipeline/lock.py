"""One run at a time in an output folder."""

import contextlib
import errno
import os
import re
import shlex
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pipeline.errors import ConfigError, PipelineError
from pipeline.private import PRIVATE, PRIVATE_FILE, make_private_folder, open_own

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
