"""Read JSON, YAML and CSV: bounded, and every fault in one line that names file and line."""

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from pipeline.outside.text import (
    CORRECT_LINE,
    DEEPEST,
    KEEP_ONE,
    LARGEST_WHOLE,
    MOST_DIGITS,
    Error,
    FaultError,
    guarded,
    read_text,
    shown,
    too_deep,
)
from pipeline.outside.yaml_text import parse_yaml

LARGEST_YAML: Final = 2**20
"""Bytes; YAML is read slowly, and holds settings, not cases."""

MOST_VALUES: Final = 2_000_000
"""Values of a JSON file, cells of a CSV."""

_NO_TEXT = re.compile("[\x00\ud800-\udfff]")
"""NUL, which no name of a file can have, and halves of characters, which no file can hold."""

_ESCAPED = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")


def read_json(path: Path, error: Error, remedy: str | None = None) -> dict[str, Any]:
    """Return the object in a JSON file.

    Args:
        path: An ordinary file.
        error: What to raise.
        remedy: What to do where it does not hold; by default, what fits the fault.

    Raises:
        PipelineError: Of the kind `error`, if the file cannot be read or is not JSON (with the
            line), a key appears twice in one object, it is nested too deeply or has a number or a
            text that nobody means, or it holds something other than an object.
    """
    text = read_text(path, error, remedy)
    return _mapping(parse_json(text, path, error, remedy), path, error, remedy)


def parse_json(text: str, where: object, error: Error, remedy: str | None = None) -> Any:  # noqa: ANN401
    """Return what a JSON text says, as `read_json` does, whatever it is."""
    return guarded(_json, text, where, error, remedy)


def read_yaml(path: Path, error: Error, remedy: str | None = None) -> dict[str, Any]:
    """Return the mapping in a YAML file; values only, no code.

    Dates and times of day are text, so that a case may be called 2001-01-01.

    Args:
        path: An ordinary file.
        error: What to raise.
        remedy: What to do where it does not hold; by default, what fits the fault.

    Raises:
        PipelineError: As for `read_json`; or if its aliases stand for more than a file can hold.
    """
    text = read_text(path, error, remedy, largest=LARGEST_YAML)
    return _mapping(guarded(_yaml, text, path, error, remedy), path, error, remedy)


def parse_yaml_value(text: str, where: object, error: Error, remedy: str | None = None) -> Any:  # noqa: ANN401
    """Return what a word of a command line says in YAML, as `read_yaml` does: `1.5`, `[a, b]`."""

    def parse(word: str) -> object:
        try:
            return _yaml(word)
        except FaultError as fault:
            raise FaultError(fault.found) from fault

    return guarded(parse, text, where, error, remedy)


def read_csv(path: Path, error: Error, remedy: str | None = None) -> list[tuple[int, list[str]]]:
    """Return the rows of a CSV file that are not empty, each with the line that it ends on.

    Args:
        path: An ordinary file.
        error: What to raise.
        remedy: What to do where it does not hold; by default, what fits the fault.

    Raises:
        PipelineError: Of the kind `error`, if the file cannot be read or is not CSV (with the
            line), or has more cells than anybody lists.
    """
    return parse_csv(read_text(path, error, remedy), path, error, remedy)


def parse_csv(
    text: str, where: object, error: Error, remedy: str | None = None
) -> list[tuple[int, list[str]]]:
    """Return the rows of a CSV text, as `read_csv` does."""
    return guarded(_csv, text, where, error, remedy)


def kind_in_words(value: object) -> str:
    """Return what kind of value this is, such as `"a list"`."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case list() | tuple():
            return "a list"
        case Mapping():
            return "keys and values"
    return "a value"


def _mapping(data: object, path: Path, error: Error, remedy: str | None) -> dict[str, Any]:
    if isinstance(data, dict):
        return data
    found = f"holds {kind_in_words(data)}, not keys and values"
    raise error(path, found, remedy or "Write it as those in configs/ and data_manifests/.")


def _json(text: str) -> object:
    _check_number(text, ",:[{")
    try:
        data = json.loads(text, object_pairs_hook=_once, parse_int=_whole)
    except json.JSONDecodeError as problem:
        raise FaultError(f"not JSON: {problem.msg}", problem.lineno, CORRECT_LINE) from problem
    _check(data, with_text=_ESCAPED.search(text) is not None)
    return data


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse what JSON leaves open and most readers accept, losing all but the last value."""
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise FaultError(f"key {shown(key)} appears twice", remedy=KEEP_ONE)
            seen.add(key)
    return values


def _whole(digits: str) -> int | float:
    if len(digits) > MOST_DIGITS:
        raise FaultError(f"a number has {len(digits)} digits")
    number = int(digits)
    return number if -LARGEST_WHOLE < number < LARGEST_WHOLE else float(number)


def _yaml(text: str) -> object:
    data = parse_yaml(text)
    _check(data, with_text=True)
    return data


def _csv(text: str) -> list[tuple[int, list[str]]]:
    _check_number(text, ",\n")
    # Lines end as a file's do, and not at every character that Unicode counts as an end.
    reader = csv.reader(io.StringIO(text, newline="\n"), strict=True)
    try:
        return [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as problem:
        raise FaultError(f"not CSV: {problem}", reader.line_num, CORRECT_LINE) from problem


def _check_number(text: str, marks: str) -> None:
    """Bound the number of values by the marks that separate them, before there are any."""
    if sum(map(text.count, marks)) > MOST_VALUES:
        raise FaultError(f"it has more than {MOST_VALUES} values")


def _check(data: object, *, with_text: bool) -> None:
    """Refuse what is nested too deeply and, where there may be any, what is no text."""
    waiting: list[tuple[object, int]] = [(data, 0)]
    while waiting:
        value, depth = waiting.pop()
        inner: Iterable[object]
        if isinstance(value, dict):
            inner = [*value, *value.values()]
        elif isinstance(value, list):
            inner = value
        else:
            if with_text and isinstance(value, str) and (found := _NO_TEXT.search(value)):
                raise FaultError(f"a text holds {found[0]!r}, which no text has")
            continue
        if depth >= DEEPEST:
            raise FaultError(too_deep())
        waiting.extend((each, depth + 1) for each in inner)
