"""How a data set is read, whatever the verb: what its manifest says, and what was set over it."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pipeline.errors import ConfigError
from pipeline.manifest.case import Manifest
from pipeline.manifest.rules import nearest
from pipeline.manifest.scheme import Scheme
from pipeline.manifest.yaml_manifest import read_manifest_file
from pipeline.study import StudyConfig


class DataPlace(BaseModel):
    """Where the data lies."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    root: Path | None = Field(
        default=None, description="Where the data lies, if not where the manifest says."
    )
    allow_outside: bool = Field(
        default=False, description="Whether files of the cases may lie outside the data folder."
    )


class ChannelSchemes(BaseModel):
    """How channels are normalised."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    normalisation: Mapping[str, Scheme] = Field(
        default={}, description="Scheme of each channel, by name, in place of the manifest's."
    )


class ReadingConfig(BaseModel):
    """The settings that each verb that reads training cases takes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: DataPlace = DataPlace()
    study: StudyConfig = StudyConfig()
    preprocessing: ChannelSchemes = ChannelSchemes()


def with_settings(manifest: Manifest, study: StudyConfig, schemes: ChannelSchemes) -> Manifest:
    """Return a manifest with what was set in place of what it says.

    Args:
        manifest: The data set.
        study: Only what was set counts, not its defaults.
        schemes: Of some channels.

    Raises:
        ConfigError: If there is no channel of a name.
    """
    names = [channel.name for channel in manifest.channels]
    for name in schemes.normalisation:
        if name not in names:
            where = f"preprocessing.normalisation.{name}"
            raise ConfigError(where, "no channel is called so", nearest(name, names))
    channels = tuple(
        dataclasses.replace(
            channel, normalisation=schemes.normalisation.get(channel.name, channel.normalisation)
        )
        for channel in manifest.channels
    )
    update = study.model_dump(exclude_unset=True)
    merged = manifest.study.model_copy(update=update)
    return dataclasses.replace(manifest, channels=channels, study=merged)


def study_settings(inputs: Sequence[Path]) -> dict[str, Any]:
    """Return how the manifests among some inputs say that their studies are read.

    Raises:
        ConfigError: If one says otherwise than another.
        ManifestError: If one does not hold.
    """
    settings: dict[str, Any] = {}
    for path in inputs:
        if path.suffix.lower() not in (".yaml", ".yml") or not path.is_file():
            continue
        for key, value in read_manifest_file(path).study.model_dump(exclude_unset=True).items():
            if settings.setdefault(key, value) != value:
                found = f"study.{key} is {value}, but {settings[key]} in another manifest"
                raise ConfigError(path, found, f"Give the manifests one by one, or study.{key}=...")
    return settings
