"""Read text, JSON and YAML files, and turn every fault in them into one clear line."""

import json
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.errors import ManifestError
from pipeline.manifest.faults import first_fault, kind_in_words
from pipeline.manifest.rules import nearest

Model = TypeVar("Model", bound=BaseModel)


def read_text(path: Path) -> str:
    """Return a UTF-8 file's text, without a byte order mark.

    Raises:
        ManifestError: If the file cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        found = f"byte {error.start} is not UTF-8 text"
        raise ManifestError(path, found, "Save the file as text in UTF-8.") from error
    except OSError as error:
        reason = error.strerror or "unreadable"
        raise ManifestError(path, f"cannot be read ({reason})", "Check the path.") from error


def read_json(path: Path) -> dict[str, object]:
    """Return the object in a JSON file.

    Raises:
        ManifestError: If the file is not JSON (with the line), a key appears twice in one object,
            or the file holds something other than an object.
    """

    def refuse_repeated_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
        keys = [key for key, _ in pairs]
        for key in keys:
            if keys.count(key) > 1:
                raise ManifestError(path, f"key {key!r} appears twice", "Keep one of them.")
        return dict(pairs)

    try:
        data = json.loads(read_text(path), object_pairs_hook=refuse_repeated_keys)
    except json.JSONDecodeError as error:
        where = f"{path}:{error.lineno}"
        raise ManifestError(where, f"not JSON: {error.msg}", "Correct the line.") from error
    return _as_mapping(data, path)


def read_yaml(path: Path) -> dict[str, object]:
    """Return the mapping in a YAML file; values only, no code.

    Raises:
        ManifestError: If the file is not YAML (with the line), a key appears twice in one mapping,
            or the file holds something other than a mapping.
    """
    text = read_text(path)
    try:
        _refuse_repeated_keys(yaml.compose(text, Loader=yaml.SafeLoader), path)
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ManifestError(where, f"not YAML: {error.problem}", "Correct the line.") from error
    except yaml.YAMLError as error:
        found = " ".join(str(error).split())
        raise ManifestError(path, f"not YAML: {found}", "Correct the file.") from error
    return _as_mapping(data, path)


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


def _as_mapping(data: object, path: Path) -> dict[str, object]:
    if not isinstance(data, dict):
        found = f"holds {kind_in_words(data)}, not keys and values"
        raise ManifestError(path, found, "Write it as those in configs/ and data_manifests/.")
    return data


def _refuse_repeated_keys(top: yaml.Node | None, path: Path) -> None:
    """Refuse what YAML forbids and PyYAML accepts, losing all but the last value."""
    waiting = [top] if top else []
    seen: set[int] = set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen or not isinstance(node, yaml.CollectionNode):
            continue
        seen.add(id(node))
        if not isinstance(node, yaml.MappingNode):
            waiting.extend(node.value)
            continue
        keys: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in keys:
                where = f"{path}:{key.start_mark.line + 1}"
                raise ManifestError(where, f"key {key.value!r} appears twice", "Keep one of them.")
            keys.add(str(key.value))
            waiting.append(value)
