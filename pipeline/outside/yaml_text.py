"""Parse YAML without code, dates or surprises in size."""

from collections.abc import Callable
from typing import Any, Final

import yaml

from pipeline.outside.text import (
    CORRECT_LINE,
    DEEPEST,
    KEEP_ONE,
    LARGEST_WHOLE,
    MOST_DIGITS,
    FaultError,
    cut,
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
