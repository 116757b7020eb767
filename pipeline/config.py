"""Read an experiment's configuration: a YAML file, and `key=value` words that override it.

The stages own their configurations; this module only reads, merges and explains what is wrong.
"""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from pipeline.errors import ConfigError
from pipeline.manifest.faults import Fault, first_fault
from pipeline.system.documents import parse_yaml_value, read_yaml
from pipeline.system.surroundings import CONFIGS, find_shipped, names_shipped
from pipeline.system.text import DEEPEST

Config = TypeVar("Config", bound=BaseModel)


def load_config(kind: type[Config], path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration.

    Args:
        kind: What to read, for example `RunConfig`.
        path: A YAML file that holds only what differs from the defaults, or the name of one that
            comes with Trivox, such as `phantom_ct`.
        overrides: Words such as `training.max_minutes=15`; the value is read as YAML.

    Raises:
        ConfigError: Naming the file or word, the key, and the nearest valid key.
    """
    path = find_shipped(path, CONFIGS)
    if not path.exists():
        choices = ", ".join(sorted(str(file) for file in path.parent.glob("*.yaml"))) or "none"
        shipped = ", ".join(names_shipped(CONFIGS))
        remedy = (
            f"Configurations in that folder: {choices}. Those that come with Trivox: {shipped}."
        )
        raise ConfigError(path, "no such file", remedy)
    return build_config(kind, read_yaml(path, ConfigError), overrides, where=str(path))


def build_config(
    kind: type[Config], tree: dict[str, Any], overrides: Sequence[str], *, where: str
) -> Config:
    """Apply overrides to a tree of settings and check the result.

    Raises:
        ConfigError: As for `load_config`.
    """
    for word in overrides:
        key, _, text = word.partition("=")
        value = parse_yaml_value(text, word, ConfigError, "Quote it.")
        _set(tree, key.split("."), value, word)
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise _explain(first_fault(error, kind, tree), where) from error


def override_settings(settings: Config, overrides: Sequence[str], allowed: Sequence[str]) -> Config:
    """Return `settings` with the overrides applied.

    Args:
        settings: What was settled earlier, such as a trained model's description.
        overrides: Words such as `study.non_finite=repair`.
        allowed: First parts of the keys that may be changed.

    Raises:
        ConfigError: As for `load_config`, or if a key may not be changed.
    """
    check_sections(overrides, allowed)
    tree = settings.model_dump(mode="json")
    return build_config(type(settings), tree, overrides, where="settings")


def check_sections(overrides: Sequence[str], allowed: Sequence[str]) -> None:
    """Make sure that words set what may be set.

    Args:
        overrides: Words such as `study.non_finite=repair`.
        allowed: First parts of the keys that may be changed.

    Raises:
        ConfigError: If one of them sets anything else, or is a file's name.
    """
    for word in overrides:
        first = word.partition("=")[0].partition(".")[0]
        if first not in allowed:
            found = "this setting cannot be changed here"
            remedy = f"Those of {', '.join(allowed)} can. A file of this name is ./{word}."
            raise ConfigError(word, found, remedy)


def _set(tree: dict[str, Any], keys: list[str], value: object, word: str) -> None:
    if len(keys) > DEEPEST:
        remedy = "Give the key of a single setting, such as training.max_minutes=15."
        raise ConfigError(word, f"a key of {len(keys)} parts", remedy)
    for key in keys[:-1]:
        if tree.get(key) is None:
            tree[key] = {}
        tree = tree[key]
        if not isinstance(tree, dict):
            remedy = "Give the key of a single setting, such as training.max_minutes=15."
            raise ConfigError(word, f"{key} has no settings below it", remedy)
    tree[keys[-1]] = value


def _explain(fault: Fault, where: str) -> ConfigError:
    """Turn what is wrong into where, what, and what to do."""
    remedy = "Correct the value."
    if fault.kind == "unknown":
        near = difflib.get_close_matches(fault.last, fault.valid, n=1)
        nearest = f"Did you mean {near[0]}? " if near else ""
        remedy = f"{nearest}Valid: {', '.join(fault.valid)}."
    elif fault.kind == "missing":
        remedy = f"Set {fault.key} in the file or as {fault.key}=..."
    return ConfigError(where, str(fault), remedy)
