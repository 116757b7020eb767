"""What a run's folder says, read back when the run goes on; or that a file of it is damaged."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from pipeline.errors import PipelineError, TrainingError
from pipeline.hashes import check_whole
from pipeline.manifest import Split, Volumes
from pipeline.outside import parse_yaml_value, read_text
from pipeline.training.config import RunConfig

_DAMAGE = (
    *(PipelineError, ValueError, TypeError, LookupError, AttributeError),
    *(ArithmeticError, RecursionError, MemoryError),
)
"""What reading a damaged file of a run may raise."""

Parsed = TypeVar("Parsed")


class RecordedSplit(BaseModel):
    """What a run's folder says of its cases.

    Attributes:
        train: Names of the training cases.
        validation: Names of the validation cases.
        volumes_ml: Of the labels of the cases, if the split followed from them.
        contents: Hash of the voxels of each case, by name; empty in runs of earlier versions.
    """

    train: list[str]
    validation: list[str]
    volumes_ml: Volumes = {}
    contents: dict[str, str] = {}

    @classmethod
    def of(cls, split: Split, volumes_ml: Volumes, contents: Mapping[str, str]) -> "RecordedSplit":
        """Return what to record of a split."""
        train, validation = (
            [case.name for case in side] for side in (split.train, split.validation)
        )
        return cls(
            train=train, validation=validation, volumes_ml=volumes_ml, contents=dict(contents)
        )


def read_whole(path: Path, parse: Callable[[str], Parsed], remedy: str) -> Parsed:
    """Read a file of a run.

    Args:
        path: The file.
        parse: Turns its text into what it says.
        remedy: What helps if it is damaged.

    Raises:
        TrainingError: If it is damaged or is not there.
    """
    check_whole(path, TrainingError, remedy)
    if not path.exists():
        raise TrainingError(path, "the file is missing", remedy)
    try:
        return parse(read_text(path, TrainingError, remedy))
    except _DAMAGE as error:
        raise TrainingError(path, "the file is damaged: it cannot be read", remedy) from error


def parse_settings(text: str) -> dict[str, Any]:
    """Return recorded settings; those that are newer than the run have their defaults."""
    tree: dict[str, Any] = parse_yaml_value(text, "settings", TrainingError)
    recorded = flatten(tree)
    try:
        defaults = flatten(RunConfig.model_validate(tree).model_dump(mode="json"))
    except ValidationError:  # A setting of an earlier version is gone: it is told by name.
        defaults = {}
    return defaults | recorded


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested settings into dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
