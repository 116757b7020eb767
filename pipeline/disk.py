"""Say by name what cannot be written, and that its disk is full, whatever a library says of it.

numpy raises an `OSError` without a number, torch a `RuntimeError`, safetensors an error of its own;
others leave out the path, or name the temporary one.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Numbers of the errors that say that a disk, or one's share of it, is full."""

_NOTHING_LEFT = 1 << 16
"""Bytes free where an error that has no number is taken for a full disk."""

_SAYS_FULL = ("No space left on device", "Disk quota exceeded", "os error 28")


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
