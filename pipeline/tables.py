"""Write all tables, so that no spreadsheet takes for a formula what a stranger called a study.

A cell of text that a spreadsheet would run gets an apostrophe before it, as spreadsheets themselves
write such text; `plain_text` takes it away again. JSON files have the names as they are.

Source:
    OWASP, CSV Injection, https://owasp.org/www-community/attacks/CSV_Injection.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final

_LEAD: Final = r"[\s\x00-\x20\x7f-\xa0\xad\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff\"']*"
"""What spreadsheets may pass over before a formula, and an apostrophe that may be there already."""

_FORMULA = re.compile(rf"{_LEAD}[=+\-@\uff1d\uff0b\uff0d\uff20\u2212|%]")
_NUMBER = re.compile(rf"{_LEAD}[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*")
_BEGINS_AS_SEPARATOR = re.compile(r"'*[\t\r\n]")
_SEPARATOR = re.compile(r"([;\t\r\n])")
"""Spreadsheets of many countries separate cells by semicolons, also within those of a comma."""


def csv_text(rows: Iterable[Sequence[object]], *, delimiter: str = ",") -> str:
    """Return rows as a table. Numbers stay numbers, None becomes an empty cell.

    Args:
        rows: The first holds the headings.
        delimiter: Between cells.
    """
    lines = (delimiter.join(_cell(cell, delimiter) for cell in row) for row in rows)
    return "".join(f"{line}\n" for line in lines)


def _cell(cell: object, delimiter: str) -> str:
    if not isinstance(cell, str):
        return "" if cell is None else str(cell)
    text = safe_text(cell)
    # Python's writer of CSV leaves a carriage return alone, which ends the line for its reader.
    if any(each in text for each in (delimiter, '"', "\n", "\r")):
        return '"{}"'.format(text.replace('"', '""'))
    return text


def safe_text(text: str) -> str:
    """Return the text of a cell so that no spreadsheet runs it."""
    if text.isalnum():
        return text
    safe = "".join(f"'{part}" if _is_formula(part) else part for part in _SEPARATOR.split(text))
    return f"'{safe}" if _BEGINS_AS_SEPARATOR.match(safe) else safe


def plain_text(cell: str) -> str:
    """Return what a cell stands for that `safe_text` wrote."""
    if cell.startswith("'") and _BEGINS_AS_SEPARATOR.match(cell, 1):
        cell = cell[1:]
    return "".join(
        part[1:] if part.startswith("'") and _is_formula(part[1:]) else part
        for part in _SEPARATOR.split(cell)
    )


def _is_formula(part: str) -> bool:
    return _FORMULA.match(part) is not None and _NUMBER.fullmatch(part) is None
