"""Read JSON, YAML and CSV: bounded, without code, every fault in one line that names it."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from pipeline.system.text import (
    CORRECT_LINE,
    DEEPEST,
    KEEP_ONE,
    LARGEST_WHOLE,
    MOST_DIGITS,
    Error,
    FaultError,
    cut,
    guarded,
    read_text,
    shown,
    too_deep,
)

MOST_YAML_VALUES: Final = 100_000
"""Values of a YAML text, with what aliases stand for counted each time."""

_TAG = "tag:yaml.org,2002:"
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Construct = Callable[[Any, Any], object]


def parse_yaml(text: str) -> object:
    """Return what a YAML text says.

    Raises:
        FaultError: If it does not hold, with the line.
    """
    try:
        _check_events(text)
        loader = _Loader(text)
        try:
            data: object = loader.get_single_data()
        finally:
            loader.dispose()
        return data
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        found = f"not YAML: {cut(str(problem.problem or problem.context))}"
        raise FaultError(found, mark.line + 1 if mark else None, CORRECT_LINE) from problem
    except yaml.YAMLError as problem:
        raise FaultError(f"not YAML: {cut(' '.join(str(problem).split()))}") from problem


def _check_events(text: str) -> None:
    """Bound depth and number of values before anything is made of them.

    Aliases cost nothing to read, but whatever goes through the values meets each of them: a few
    lines can stand for more than any memory.
    """
    sizes: dict[str, int] = {}
    # Anchor, and number of values so far, of each list or mapping that is open.
    opened: list[tuple[str | None, int]] = [(None, 0)]
    for event in yaml.parse(text, Loader=_Loader):
        line = event.start_mark.line + 1 if event.start_mark else None
        anchor: str | None = getattr(event, "anchor", None)
        if isinstance(event, yaml.CollectionStartEvent):
            opened.append((anchor, 1))
            if len(opened) > DEEPEST + 1:
                raise FaultError(too_deep(), line)
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, size = opened.pop()
        elif isinstance(event, yaml.ScalarEvent):
            size = 1
        elif isinstance(event, yaml.AliasEvent):
            if any(anchor == name for name, _ in opened):
                raise FaultError(f"{shown(anchor)} refers to itself", line)
            # One that is not known is told when it is read.
            size, anchor = sizes.get(str(anchor), 1), None
        else:
            continue
        if anchor is not None:
            sizes[anchor] = size
        outer, so_far = opened.pop()
        opened.append((outer, so_far + size))
        if so_far + size > MOST_YAML_VALUES:
            raise FaultError(f"it stands for more than {MOST_YAML_VALUES} values", line)


class _Loader(_Base):  # type: ignore[misc]
    """Makes values without code; no dates, and each key once."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [pair for pair in pairs if pair[0] != f"{_TAG}timestamp"]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._checked: set[int] = set()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Take over what `<<` names; before, refuse keys that are given twice."""
        if id(node) not in self._checked:
            self._checked.add(id(node))
            self._refuse_repeated_keys(node)
        super().flatten_mapping(node)

    def _refuse_repeated_keys(self, node: yaml.MappingNode) -> None:
        # PyYAML accepts them, losing all but the last value.
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            is_merge = key.tag == f"{_TAG}merge"
            word = "<<" if is_merge else str(self.construct_object(key, deep=True))
            if word in seen:
                found = f"key {shown(word)} appears twice"
                raise FaultError(found, key.start_mark.line + 1, KEEP_ONE)
            seen.add(word)


def _number(loader: Any, node: yaml.ScalarNode) -> object:  # noqa: ANN401
    """Return a number; a time of day, which YAML 1.1 takes for one, stays text."""
    text = str(loader.construct_scalar(node))
    if ":" in text:
        return text
    if len(text) > MOST_DIGITS:
        raise FaultError(f"a number has {len(text)} digits", node.start_mark.line + 1)
    if node.tag == f"{_TAG}float":
        return loader.construct_yaml_float(node)
    number: int = loader.construct_yaml_int(node)
    return number if -LARGEST_WHOLE < number < LARGEST_WHOLE else float(number)


def _carefully(construct: _Construct) -> _Construct:
    """Return what names the value and its line where it cannot be read."""

    def constructed(loader: object, node: yaml.Node) -> object:
        try:
            return construct(loader, node)
        except (ValueError, LookupError, TypeError, ArithmeticError) as problem:
            found = f"not YAML: {shown(str(node.value))} is no {node.tag.rpartition(':')[2]}"
            raise FaultError(found, node.start_mark.line + 1, CORRECT_LINE) from problem

    return constructed


_text, _unknown = yaml.SafeLoader.construct_yaml_str, yaml.SafeLoader.construct_undefined
_CONSTRUCTORS: Final[dict[str, _Construct]] = {
    "int": _carefully(_number),
    "float": _carefully(_number),
    "bool": _carefully(yaml.SafeLoader.construct_yaml_bool),
    "timestamp": _text,
    # Nothing that is read here wants any of these.
    **dict.fromkeys(("binary", "omap", "pairs", "set"), _unknown),
}
for _name, _constructor in _CONSTRUCTORS.items():
    _Loader.add_constructor(f"{_TAG}{_name}", _constructor)


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
