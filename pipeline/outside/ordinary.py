"""Open ordinary files only, at once or not at all."""

import errno
import os
import stat
from pathlib import Path
from typing import IO

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def open_ordinary(path: Path) -> IO[bytes]:
    """Open an ordinary file to read its bytes; links are followed.

    Opening a pipe would wait for a writer, and reading a device may never end.

    Raises:
        OSError: If it cannot be opened, or is no ordinary file, with what it is.
    """
    # Without waiting: it is looked at once it is open, so that it cannot be changed in between.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        _check_kind(os.fstat(descriptor).st_mode, path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def check_ordinary(path: Path) -> None:
    """Refuse what is no ordinary file, before a library opens it by its name.

    Raises:
        OSError: As for `open_ordinary`.
    """
    _check_kind(path.stat().st_mode, path)


def _check_kind(mode: int, path: Path) -> None:
    if stat.S_ISREG(mode):
        return
    kind = _KINDS.get(stat.S_IFMT(mode), "something else")
    number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
    raise OSError(number, f"{kind}, no ordinary file", str(path))
