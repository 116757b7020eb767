"""Make sure that all that is taken from a file, in several openings, is of the same file.

A file counts as unchanged while its size, its number on the file system and the times of its last
changes are: a rename puts another number there, and a rewrite in place another time, which takes
intent to hide.
"""

import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeAlias, TypeVar

from pipeline.errors import StudyError

Stamp: TypeAlias = list[list[int]]
"""Of each file: size in bytes, time of the last change of content and of anything, number."""

MOST_READINGS = 3
"""Of files that change meanwhile; a copy that is made, or an export that goes on, takes longer."""

Result = TypeVar("Result")


def stamp(files: Iterable[Path]) -> Stamp | None:
    """Return the stamp of files in their order, or None if one of them is not there."""
    try:
        return [stamp_of(path.stat()) for path in files]
    except (OSError, ValueError):
        return None


def stamp_of(status: os.stat_result) -> list[int]:
    """Return the stamp of a file of that status."""
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def read_unchanged(
    where: str, look: Callable[[], Stamp | None], read: Callable[[], Result]
) -> Result:
    """Read until nothing changed meanwhile.

    What goes wrong with a file that changes meanwhile is the change's fault, and is tried again.

    Args:
        where: What is read, for errors.
        look: Returns the stamp of what is read.
        read: Reads it.

    Raises:
        StudyError: If it changed each time.
    """
    for _ in range(MOST_READINGS):
        before = look()
        try:
            result = read()
        except Exception:
            if look() == before:
                raise
            continue
        if look() == before:
            return result
        del result
    raise changed(where) from OSError(errno.EAGAIN, "changed")


def changed(where: str) -> StudyError:
    """Return the error of something that changed while it was read."""
    remedy = "Run again once nothing writes to it any more."
    return StudyError(where, "changed while it was read", remedy)
