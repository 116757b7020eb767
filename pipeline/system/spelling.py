"""Text of strangers, spelled so that a terminal, a page or a picture shows it and does nothing.

Terminals obey control characters, also those of C1 and the ones that turn the direction of text;
others are not seen at all. They are spelled out once, where lines are printed and logged.
"""

import contextlib
import logging
import sys
import traceback
import unicodedata
import warnings
from types import TracebackType
from typing import Final, TextIO

LONGEST_NAME: Final = 255
"""Characters; as many as the name of a file may have."""

_SEEN_AS_NOTHING = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Letters and marks by their category, of which nothing is to be seen."""


def spelled(text: str, keep: str = "") -> str:
    r"""Return a text with each character spelled out that is not seen, or does something.

    Args:
        text: Any, also names of files that are no UTF-8.
        keep: Characters to leave, such as a line feed.

    Example:
        >>> spelled("a\x1b[31mb")
        'a\\x1b[31mb'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        each if each in keep or _is_seen(each) else each.encode("unicode_escape").decode("ascii")
        for each in text
    )


def is_name(text: str) -> bool:
    """Tell whether a text may be a name: of a model, channel, label, region or case.

    A name is not empty, has at most 255 characters, and each of them is seen.
    """
    return bool(text.strip()) and len(text) <= LONGEST_NAME and spelled(text) == text


def _is_seen(each: str) -> bool:
    if each in _SEEN_AS_NOTHING:
        return False
    # Python counts spaces other than the usual one among those that are not seen.
    return each.isprintable() or unicodedata.category(each) == "Zs"


class LogFormatter(logging.Formatter):
    """Writes each message on one line; the lines of a traceback stay."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Return the line of a message."""
        # Another process wrote it in this way already, with its traceback.
        keep = "\n" if getattr(record, "is_written", False) else ""
        return spelled(super().formatMessage(record), keep)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line and, where there is one, the traceback below it."""
        return spelled(super().format(record), keep="\n")


def show_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Show what nobody caught, as Python does; set it as `sys.excepthook`."""
    lines = "".join(traceback.format_exception(kind, error, trace))
    sys.stderr.write(spelled(lines, keep="\n"))


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Show a library's warning, which may quote a file; set it as `warnings.showwarning`."""
    text = warnings.formatwarning(message, category, filename, lineno, line)
    with contextlib.suppress(OSError):
        (file or sys.stderr).write(spelled(text, keep="\n"))


def show_safely() -> None:
    """Let nothing that this process writes by itself do anything to a terminal."""
    sys.excepthook = show_traceback
    warnings.showwarning = show_warning
