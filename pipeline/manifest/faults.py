"""Say in the user's words which value of a file or a command line does not fit."""

import json
import re
import typing
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pipeline.errors import ManifestError
from pipeline.manifest.rules import nearest
from pipeline.system.text import cut

Part = int | str
Kind = Literal["unknown", "missing", "wrong"]

_KINDS: Mapping[str, Kind] = {"extra_forbidden": "unknown", "missing": "missing"}

_WANTED = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("string_type", "string_sub_type"), "text"),
    **dict.fromkeys(("tuple_type", "list_type", "set_type", "frozen_set_type"), "a list"),
    "int_parsing_size": "a smaller number",
    "path_type": "a path",
    "none_required": "nothing",
}
_KEYS_AND_VALUES = re.compile(r"(model|model_attributes|dict|mapping|dataclass(_exact)?)_type")
_LONGEST = 60
"""Characters of a value in a message."""

_SUBJECT = re.compile(r"^(Input|String|Tuple|List|Set|Dictionary|Mapping|Value|Data) should ")


@dataclass(frozen=True)
class Fault:
    """One value that does not fit.

    Attributes:
        key: Where it stands, such as `training.batch_size`; empty for the whole.
        kind: Whether the key is not known, or not there, or its value is wrong.
        given: The value, as the user would write it; empty for the whole and for what is missing.
        wanted: What it should be, such as `"should be a whole number"`.
        last: Last part of the key.
        valid: The keys that are known beside it.
    """

    key: str
    kind: Kind
    given: str
    wanted: str
    last: str
    valid: tuple[str, ...]

    def __str__(self) -> str:
        match self.kind:
            case "unknown":
                return f"{self.key}: no such key"
            case "missing":
                return f"{self.key} is missing"
        label = f"{self.key}: " if self.key else ""
        shown = f" (found {self.given})" if self.given else ""
        return f"{label}{self.wanted}{shown}"


def first_fault(error: ValidationError, model: type[BaseModel], data: object) -> Fault:
    """Return the first thing that is wrong with `data` as a `model`.

    An unknown key goes before a missing one: it may be the missing one, mistyped. Where a value may
    be of several kinds, all of them are named.
    """
    known = frozenset(_fields_below(model))
    faults = [
        (tuple(place_in(fault["loc"], data, known)), fault)
        for fault in error.errors(include_url=False)
    ]
    place, first = min(faults, key=lambda found: found[1]["type"] != "extra_forbidden")
    if first["type"] == "missing" and isinstance(place[-1], int):
        place, wanted = place[:-1], ["should have more values"]
    elif first["type"] not in ("extra_forbidden", "missing"):
        # Of the kinds that a value may have, the one that it is nearest to is wrong deep inside.
        beside = [found for found in faults if found[0][: len(place)] == place]
        place = max((found[0] for found in beside), key=len)
        first = next(found[1] for found in beside if found[0] == place)
        wanted = [_wanted(found[1]) for found in beside if found[0] == place]
    else:
        wanted = [""]
    kind: Kind = "wrong" if wanted[0] else _KINDS[first["type"]]
    given = first["input"]
    is_whole = isinstance(given, Mapping | BaseModel) and given
    return Fault(
        key=".".join(str(part) for part in place),
        kind=kind,
        given="" if is_whole or kind != "wrong" else in_words(given),
        wanted=" or ".join(dict.fromkeys(wanted)).replace(" or should be ", " or "),
        last=str(place[-1]) if place else "",
        valid=tuple(_keys_beside(place, model)),
    )


def place_in(location: tuple[Part, ...], data: object, known: Collection[str]) -> Iterator[Part]:
    """Yield the parts of a type checker's location that are keys and numbers of `data`.

    The others name the checker's own types, such as `int` in `("labels", "liver", "int")`.

    Args:
        location: As the checker gives it.
        data: What was checked.
        known: Names of fields, which may be missing in `data`.
    """
    for part in location:
        if isinstance(data, Mapping) and part in data:
            data = data[part]
        elif isinstance(data, list | tuple) and isinstance(part, int):
            data = data[part] if part < len(data) else None
        elif isinstance(part, int) or part in known:
            data = None
        else:
            continue
        yield part


def in_words(value: object) -> str:
    """Return a value as a user would write it, cut where it is long."""
    match value:
        case None:
            return "nothing"
        case str():
            return cut(repr(value[:_LONGEST]) if len(value) > _LONGEST else repr(value), _LONGEST)
    text = ""
    # Piece by piece: most of a long value is never spelled.
    for piece in json.JSONEncoder(default=_named, ensure_ascii=False).iterencode(value):
        text += piece[: _LONGEST + 1]
        if len(text) > _LONGEST:
            break
    return cut(text, _LONGEST)


def _named(value: object) -> str:
    return cut(str(value), _LONGEST)


def _wanted(fault: ErrorDetails) -> str:
    kind = fault["type"]
    if kind == "invalid_key":
        return "should have text for its keys"
    if _KEYS_AND_VALUES.fullmatch(kind):
        return "should be keys and values"
    if kind in _WANTED:
        return f"should be {_WANTED[kind]}"
    text = fault["msg"].removeprefix("Value error, ").replace(" after validation", "")
    return _SUBJECT.sub("should ", text).replace("True", "true").replace("False", "false")


def _keys_beside(place: tuple[Part, ...], model: type[BaseModel]) -> list[str]:
    """Return the valid keys at the level of the last part of `place`."""
    for part in place[:-1]:
        if isinstance(part, str) and part in model.model_fields:
            model = next(_models_in(model.model_fields[part].annotation), model)
    return list(model.model_fields)


def _fields_below(model: type[BaseModel]) -> Iterator[str]:
    """Yield the names of all fields of a model and of those in it."""
    yield from model.model_fields
    for field in model.model_fields.values():
        for part in _models_in(field.annotation):
            yield from _fields_below(part)


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in typing.get_args(annotation):
        yield from _models_in(part)


Model = TypeVar("Model", bound=BaseModel)


def fit(model: type[Model], data: object, path: Path) -> Model:
    """Return `data` as a `model`.

    Raises:
        ManifestError: Names the first key that does not fit; an unknown key comes with the valid
            one nearest to it.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        fault = first_fault(error, model, data)
    if fault.kind == "unknown":
        remedy = nearest(fault.last, fault.valid)
        raise ManifestError(path, f"unknown key {fault.key!r}", remedy)
    if fault.kind == "missing":
        raise ManifestError(path, f"key {fault.key!r} is missing", "Add it.")
    found = f"{fault.key!r} is {fault.given}" if fault.given else f"{fault.key!r} does not fit"
    raise ManifestError(path, found, f"It {fault.wanted}.")
