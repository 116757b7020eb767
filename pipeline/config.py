"""Read an experiment's configuration: a YAML file, and `key=value` words that override it.

The stages own their configurations; this module only reads, merges and explains what is wrong.
"""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.errors import ConfigError

Config = TypeVar("Config", bound=BaseModel)


def load_config(kind: type[Config], path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration.

    Args:
        kind: What to read, for example `RunConfig`.
        path: A YAML file that holds only what differs from the defaults.
        overrides: Words such as `training.max_minutes=15`; the value is read as YAML.

    Raises:
        ConfigError: Naming the file or word, the key, and the nearest valid key.
    """
    try:
        tree = yaml.safe_load(path.read_text("utf-8")) or {}
    except FileNotFoundError as error:
        choices = ", ".join(sorted(str(file) for file in path.parent.glob("*.yaml"))) or "none"
        remedy = f"Configurations in that folder: {choices}."
        raise ConfigError(path, "no such file", remedy) from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        found = f"not valid YAML ({error.problem})"
        raise ConfigError(f"{path}:{line}", found, "Correct the line.") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        found = f"cannot be read as YAML ({type(error).__name__})"
        raise ConfigError(path, found, "Name a text file such as those in configs/.") from error
    if not isinstance(tree, dict):
        raise ConfigError(path, "not a mapping of keys to values", "See configs/ for examples.")
    return build_config(kind, tree, overrides, where=str(path))


def build_config(
    kind: type[Config], tree: dict[str, Any], overrides: Sequence[str], *, where: str
) -> Config:
    """Apply overrides to a tree of settings and check the result.

    Raises:
        ConfigError: As for `load_config`.
    """
    for word in overrides:
        key, _, text = word.partition("=")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(word, "the value is not valid YAML", "Quote it.") from error
        _set(tree, key.split("."), value, word)
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise _explain(kind, error, where) from error


def override_settings(settings: Config, overrides: Sequence[str], allowed: Sequence[str]) -> Config:
    """Return `settings` with the overrides applied.

    Args:
        settings: What was settled earlier, such as a trained model's description.
        overrides: Words such as `study.non_finite=repair`.
        allowed: First parts of the keys that may be changed.

    Raises:
        ConfigError: As for `load_config`, or if a key may not be changed.
    """
    for word in overrides:
        first = word.partition("=")[0].partition(".")[0]
        if first not in allowed:
            found = "this setting cannot be changed here"
            raise ConfigError(word, found, f"Those of {', '.join(allowed)} can.")
    tree = settings.model_dump(mode="json")
    return build_config(type(settings), tree, overrides, where="settings")


def _set(tree: dict[str, Any], keys: list[str], value: object, word: str) -> None:
    for key in keys[:-1]:
        if tree.get(key) is None:
            tree[key] = {}
        tree = tree[key]
        if not isinstance(tree, dict):
            remedy = "Give the key of a single setting, such as training.max_minutes=15."
            raise ConfigError(word, f"{key} has no settings below it", remedy)
    tree[keys[-1]] = value


def _explain(kind: type[BaseModel], error: ValidationError, where: str) -> ConfigError:
    """Turn pydantic's first finding into where, what, and what to do."""
    # An unknown key goes before a missing one: it may be the missing one, mistyped.
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    location = [str(part) for part in first["loc"]]
    key = ".".join(location)
    if first["type"] == "extra_forbidden":
        valid = _keys_beside(kind, location)
        near = difflib.get_close_matches(location[-1], valid, n=1)
        nearest = f"Did you mean {near[0]}? " if near else ""
        return ConfigError(where, f"{key}: no such key", f"{nearest}Valid: {', '.join(valid)}.")
    if first["type"] == "missing":
        return ConfigError(where, f"{key} is missing", f"Set {key} in the file or as {key}=...")
    message = first["msg"].removeprefix("Value error, ")
    given = first["input"]
    shown = "" if isinstance(given, dict | BaseModel) else f" (found {given!r})"
    label = f"{key}: " if key else ""
    return ConfigError(where, f"{label}{message}{shown}", "Correct the value; see the README.")


def _keys_beside(kind: type[BaseModel], location: list[str]) -> list[str]:
    """Return the valid keys at the place of an unknown one."""
    # A number is a place in a list, whose items are of the kind that the list's field names.
    for part in (part for part in location[:-1] if not part.isdigit()):
        field = kind.model_fields[part].annotation
        candidates = [field, *getattr(field, "__args__", ())]
        nested = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not nested:
            return []
        kind = nested[0]
    return list(kind.model_fields)
