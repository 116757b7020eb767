"""Start a run from a trained model: what it takes over, and what it refuses to."""

import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import ValidationError
from rich.table import Table
from rich.text import Text

from pipeline.errors import ConfigError
from pipeline.files import write_text
from pipeline.manifest.faults import first_fault
from pipeline.model import (
    ChannelDescription,
    Model,
    ModelDescription,
    copy_model,
    hash_model,
    load_model,
)
from pipeline.ownership import remove
from pipeline.progress import CONSOLE
from pipeline.training.config import RunConfig
from pipeline.training.folder import RunFolder
from pipeline.training.transfer import Transfer
from pipeline.transforms import Preprocessing

logger = logging.getLogger(__name__)


def open_source(folder: RunFolder, given: Path | None) -> Model | None:
    """Return the model that a run starts from, or started from if it was begun.

    A run keeps a copy of its source, so that resuming does not need the original.

    Args:
        folder: Of the run.
        given: Folder of the model, if one is asked for.

    Raises:
        ConfigError: If the run was begun from another model, or from none.
        ModelError: If the model cannot be loaded.
    """
    cpu = torch.device("cpu")
    if not folder.is_begun:
        return None if given is None else load_model(given, cpu)
    if not folder.source.is_dir():
        if given is not None:
            found = "the run was started without --from"
            remedy = "Leave --from out, or choose another name=... for a new run."
            raise ConfigError(folder.path, found, remedy)
        return None
    source = load_model(folder.source, cpu)
    if given is not None and hash_model(given) != source.sha256:
        found = (
            f"the run was started from the model {source.description.name!r} "
            f"({source.sha256[:12]}), which is not the one in {given}"
        )
        remedy = "Leave --from out, or choose another name=... for a new run."
        raise ConfigError(folder.path, found, remedy)
    return source


def keep_source(folder: RunFolder, given: Path | None) -> None:
    """Copy the source into a run that is about to begin; or clear away that of one that never did.

    Raises:
        ModelError: If the folder is no model.
    """
    remove(folder.source)
    remove(folder.finetuning)
    if given is not None:
        copy_model(given, folder.source)


def adopt_settings(config: RunConfig, source: Model | None) -> RunConfig:
    """Return the configuration with the network and the preprocessing of the source.

    The patch is the source's too, unless the configuration sets one.

    Raises:
        ConfigError: If the configuration sets one of these to something else, or freezes layers
            although there is no source.
    """
    if source is None:
        if config.training.freeze != "nothing":
            found = f"{config.training.freeze} would be frozen as random as it starts"
            raise ConfigError("training.freeze", found, "Add --from MODEL, or leave it out.")
        return config
    theirs = source.description
    _refuse_conflicts(config, theirs)
    taken = theirs.preprocessing.model_dump(include=set(type(config.preprocessing).model_fields))
    training = config.training
    if theirs.patch_size is not None and "patch_size" not in training.model_fields_set:
        training = training.model_copy(update={"patch_size": theirs.patch_size})
    adopted = config.model_copy(
        update={
            "network": theirs.network,
            "preprocessing": config.preprocessing.model_copy(update=taken),
            "training": training,
        }
    )
    try:
        RunConfig.model_validate(adopted.model_dump())
    except ValidationError as error:
        found = str(first_fault(error, RunConfig, adopted.model_dump()))
        remedy = "Choose a size that fits its network."
        raise ConfigError(f"--from {theirs.name}", found, remedy) from error
    return adopted


def _refuse_conflicts(config: RunConfig, theirs: ModelDescription) -> None:
    for stage in ("network", "preprocessing"):
        mine, others = getattr(config, stage), getattr(theirs, stage)
        for key in sorted(mine.model_fields_set - {"normalisation"}):
            wanted, field = getattr(mine, key), type(mine).model_fields[key]
            there = getattr(others, key, field.get_default(call_default_factory=True))
            if wanted is not None and wanted != there:
                found = f"is {_plain(wanted)}, but {_plain(there)} in the model {theirs.name!r}"
                remedy = "Leave it out to take over the model's, or train without --from."
                raise ConfigError(f"{stage}.{key}", found, remedy)


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def match_channels(
    channels: Sequence[ChannelDescription], source: ModelDescription
) -> list[int | None]:
    """Return for each channel of the data which of the source's it continues; None for none.

    Channels match by name; by place where there are as many and the modality is the same.

    Raises:
        ConfigError: If a channel changes its modality, or none matches.
    """
    places = {channel.name: place for place, channel in enumerate(source.channels)}
    names = {channel.name for channel in channels}
    matches: list[int | None] = []
    for place, channel in enumerate(channels):
        match = places.get(channel.name)
        if match is None and len(channels) == len(source.channels):
            there = source.channels[place]
            is_free = there.name not in names and there.modality == channel.modality
            match = place if is_free else None
        elif match is not None and source.channels[match].modality != channel.modality:
            match = None
        matches.append(match)
    if all(match is None for match in matches):
        found = f"the model {source.name!r} takes {_list(source.channels)}, not {_list(channels)}"
        remedy = "Start from a model of the same modality, or train without --from."
        raise ConfigError("--from", found, remedy)
    return matches


def adopt_preprocessing(
    settled: Preprocessing, channels: Sequence[ChannelDescription], source: ModelDescription
) -> Preprocessing:
    """Return the source's preprocessing; channels that it does not know are as settled here.

    Raises:
        ConfigError: If the source's channels are not those of the data.
    """
    theirs = source.preprocessing
    matches = match_channels(channels, source)
    for channel, own, match in zip(channels, settled.channels, matches, strict=True):
        if match is not None and theirs.channels[match].kind != own.kind:
            kind = theirs.channels[match].kind
            text = "%s: normalised as in the model %s (%s), not as the data says (%s)"
            logger.warning(text, channel.name, source.name, kind, own.kind)
    kinds = tuple(
        own if match is None else theirs.channels[match]
        for own, match in zip(settled.channels, matches, strict=True)
    )
    return theirs.model_copy(update={"channels": kinds})


def report_transfer(
    transfer: Transfer, source: Model, folder: RunFolder, seen: Sequence[str] | None
) -> None:
    """Print what became of the source's weights, and write it to `finetune.json`.

    Args:
        transfer: What became of them.
        source: The model.
        folder: Of the run.
        seen: Validation cases that the source was trained on; None if that cannot be told.
    """
    description = source.description
    content = {
        "source": {
            "name": description.name,
            "sha256": source.sha256,
            "member": 0,
            "num_members": description.num_members,
        },
        "loaded": transfer.loaded,
        "resized": transfer.resized,
        "skipped": transfer.skipped,
        "validation_cases_that_the_source_was_trained_on": seen,
    }
    write_text(folder.finetuning, json.dumps(content, indent=2))
    of_several = f", member 0 of {description.num_members}" * (description.num_members > 1)
    title = Text(f"From the model {description.name}{of_several}")
    table = Table("weights", "tensors", "how, why", title=title)
    table.add_row("loaded", str(len(transfer.loaded)), "as they are")
    for kind, reasons in (("resized", transfer.resized), ("skipped", transfer.skipped)):
        for reason, count in Counter(reasons.values()).items():
            table.add_row(kind, str(count), Text(reason))
    CONSOLE.print(table)


def _list(channels: Sequence[ChannelDescription]) -> str:
    return ", ".join(f"{channel.name} ({channel.modality})" for channel in channels)
