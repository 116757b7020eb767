"""Read text from outside: ordinary files only, of bounded size, faults told in one line."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final, TypeVar

from pipeline.errors import PipelineError
from pipeline.system.disk import remedy_of

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


LARGEST_TEXT: Final = 64 * 2**20
"""Bytes; a data set of 100 000 cases takes a third of it."""

DEEPEST: Final = 64
"""Levels of lists and objects in each other."""

MOST_DIGITS: Final = 300
"""Of a number: as large as those that processors compute with."""

LARGEST_WHOLE: Final = 2**64
"""Whole numbers from here on become floats, as they are in JavaScript."""

CORRECT_LINE: Final = "Correct the line."
KEEP_ONE: Final = "Keep one of them."

Error = type[PipelineError]
Found = TypeVar("Found")

_CORRECT_FILE = "Correct the file."


class FaultError(Exception):
    """What a text holds that cannot be; the line, if that is known, and what to do."""

    def __init__(self, found: str, line: int | None = None, remedy: str | None = None) -> None:
        super().__init__(found)
        self.found, self.line, self.remedy = found, line, remedy


def read_bytes(
    path: Path, error: Error, remedy: str = "Check the path.", *, largest: int = LARGEST_TEXT
) -> bytes:
    """Return a file's bytes.

    Args:
        path: An ordinary file.
        error: What to raise.
        remedy: What to do where it is not there, or is something else.
        largest: Bytes that it may have.

    Raises:
        PipelineError: Of the kind `error`, if it cannot be read or is larger.
    """
    try:
        with open_ordinary(path) as file:
            content = file.read(largest + 1)
    except OSError as problem:
        reason = problem.strerror or "unreadable"
        help_ = remedy_of(problem, remedy)
        raise error(path, f"cannot be read ({reason})", help_) from problem
    except ValueError as problem:
        raise error(path, "this cannot be the name of a file", remedy) from problem
    if len(content) > largest:
        found = f"it is larger than {largest >> 20} MiB, the most for a text of its kind"
        raise error(path, found, "Give the file that was meant.")
    return content


def read_text(
    path: Path, error: Error, remedy: str | None = None, *, largest: int = LARGEST_TEXT
) -> str:
    """Return a UTF-8 file's text, without a byte order mark, its lines ended by line feeds.

    Args:
        path: An ordinary file.
        error: What to raise.
        remedy: What to do where it does not hold; by default, what fits the fault.
        largest: Bytes that it may have.

    Raises:
        PipelineError: Of the kind `error`, if it cannot be read, is larger, or is no text.
    """
    content = read_bytes(path, error, remedy or "Check the path.", largest=largest)
    save_as_text = remedy or "Save the file as text in UTF-8."
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        found = f"byte {problem.start} is not UTF-8 text"
        raise error(path, found, save_as_text) from problem
    if "\0" in text:
        found = f"byte {content.index(0)} is 0, which no text has"
        raise error(path, found, save_as_text)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def cut(text: str, longest: int = 100) -> str:
    """Return a text for a message, without its end where it is long."""
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def shown(value: object) -> str:
    """Return a key as it would stand in code, without its end where it is long."""
    return repr(cut(value) if isinstance(value, str) else value)


def too_deep() -> str:
    """Return the words for what is nested too deeply."""
    return f"lists and objects are nested more than {DEEPEST} deep"


def guarded(
    parse: Callable[[str], Found], text: str, where: object, error: Error, remedy: str | None
) -> Found:
    """Parse a text.

    Args:
        parse: Raises a `FaultError` where it knows what is wrong.
        text: What to parse.
        where: Names the text in errors.
        error: What to raise.
        remedy: What to do where it does not hold; by default, what fits the fault.

    Raises:
        PipelineError: Of the kind `error`, whatever went wrong.
    """
    try:
        return parse(text)
    except FaultError as fault:
        place = where if fault.line is None else f"{where}:{fault.line}"
        raise error(place, fault.found, remedy or fault.remedy or _CORRECT_FILE) from fault
    except RecursionError as problem:
        raise error(where, too_deep(), remedy or _CORRECT_FILE) from problem
    except MemoryError as problem:
        found = "there is not enough memory to read it"
        raise error(where, found, remedy or "Give the file that was meant.") from problem
    # Parsers of others: what they raise for a text that nobody thought of is not known.
    except (ValueError, LookupError, TypeError, ArithmeticError, AttributeError) as problem:
        found = f"a value cannot be read ({cut(str(problem))})"
        raise error(where, found, remedy or _CORRECT_FILE) from problem
