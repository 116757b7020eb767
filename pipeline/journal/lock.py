"""One run at a time in an output folder."""

import errno
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pipeline.errors import ConfigError
from pipeline.ownership import PRIVATE, make_private_folder

LOCK = f"{PRIVATE}/lock"
ARCHIVE_LOCK = f"{PRIVATE}/archive.lock"
"""Held by a round trip to an archive, which consists of many runs."""

PATIENCE_S = 10.0
"""A run that was just ended may hold the lock for a moment longer."""


@contextmanager
def only_run(out: Path, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Keep other runs out of a folder for the length of a block.

    The system frees the lock however the process ends.

    Raises:
        ConfigError: If another run has it.
    """
    path = make_private_folder(out) / Path(LOCK).name
    with path.open("a") as file:
        deadline = time.monotonic() + patience_s
        while not _try(file):
            if time.monotonic() > deadline:
                found = "another run is writing to this folder"
                look = f"trivox status {shlex.quote(str(out))}"
                remedy = f"Wait for it (`{look}`), stop it, or name another folder."
                raise ConfigError(out, found, remedy)
            time.sleep(0.1)
        yield


def is_locked(out: Path, lock: str = LOCK) -> bool:
    """Tell whether a run is writing to a folder now, by the file that it locks."""
    try:
        with (out / lock).open("a") as file:
            return not _try(file)
    except OSError:
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
