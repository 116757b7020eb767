"""Start a run from a trained model: what it takes over, what it freezes, what it refuses."""

import json
import logging
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

import torch
from ignite.engine import Engine, Events
from pydantic import ValidationError
from rich.table import Table
from rich.text import Text

from pipeline.errors import ConfigError
from pipeline.manifest import Case
from pipeline.manifest.faults import first_fault
from pipeline.model import (
    ChannelDescription,
    Model,
    ModelDescription,
    copy_model,
    hash_model,
    load_model,
)
from pipeline.model.description import UNKNOWN, TrainingCases
from pipeline.model.transfer import Transfer
from pipeline.system.files import write_text
from pipeline.system.ownership import remove
from pipeline.system.progress import CONSOLE
from pipeline.training.checkpoint import TrainingState
from pipeline.training.config import Freeze, RunConfig, TrainingConfig
from pipeline.training.folder import RunFolder
from pipeline.training.step import progress_of
from pipeline.transforms import Preprocessing

logger = logging.getLogger(__name__)

ENCODER_PARTS = frozenset(
    {
        "input_block", "downsamples", "bottleneck", "stem", "encoder", "downs", "stages", "embed",
        "transformer",
    }
)  # fmt: skip
"""What the networks of `pipeline/network` call the parts of their contracting path."""


def attach_freezing(
    trainer: Engine, state: TrainingState, config: TrainingConfig, head: Container[str]
) -> None:
    """Make the trainer hold weights still while the run is within `config.freeze_share`.

    What is frozen has no gradient, so that the optimiser neither moves it nor decays it. It follows
    from the share of the budget alone, and so a resumed run goes on exactly.

    Args:
        trainer: The engine of the steps.
        state: What it trains.
        config: What to freeze, and for how long.
        head: Names of the weights that give the logits.
    """
    frozen = frozen_weights(state.network, config.freeze, head)

    def thaw_in_time() -> None:
        learns = progress_of(config, state.iteration, state.elapsed_s) >= config.freeze_share
        if learns and not frozen[0].requires_grad:
            logger.info("iteration %d: frozen weights learn from here on", state.iteration)
        for weight in frozen:
            weight.requires_grad_(learns)

    if frozen:
        trainer.add_event_handler(Events.ITERATION_STARTED, thaw_in_time)


def frozen_weights(
    network: torch.nn.Module, freeze: Freeze, head: Container[str]
) -> list[torch.nn.Parameter]:
    """Return the weights that `freeze` means."""
    if freeze == "nothing":
        return []
    return [
        weight
        for name, weight in network.named_parameters()
        if name not in head
        and (freeze == "all_but_head" or name.partition(".")[0] in ENCODER_PARTS)
    ]


MOST_NAMES = 10


def training_cases(
    cases: Sequence[Case], contents: Mapping[str, str], source: ModelDescription | None
) -> tuple[TrainingCases, ...]:
    """Return what a model keeps of its training cases, and of those of the model it starts from.

    Args:
        cases: It is trained on.
        contents: Hash of the voxels of each case, by name.
        source: The model that it starts from, if there is one.
    """
    is_known = all(case.name in contents for case in cases)
    own = TrainingCases.of(contents[case.name] for case in cases) if is_known else UNKNOWN
    earlier = () if source is None else source.training_cases or (UNKNOWN,)
    return tuple(dict.fromkeys((own, *earlier)))


def seen_before(
    cases: Sequence[Case], contents: Mapping[str, str], source: ModelDescription
) -> list[str] | None:
    """Return the names of the cases that a model was trained on; None if it cannot be told.

    Args:
        cases: To ask about.
        contents: Hash of the voxels of each case, by name.
        source: The model.
    """
    seen = sorted(
        case.name
        for case in cases
        if case.name in contents and source.was_trained_on(contents[case.name])
    )
    is_known = source.training_cases and UNKNOWN not in source.training_cases
    return seen if seen or (is_known and all(case.name in contents for case in cases)) else None


def seen_in_words(seen: list[str] | None, num_cases: int, source: ModelDescription) -> str:
    """Say which validation cases a model was trained on; nothing if none are."""
    if seen is None:
        return (
            f"the model {source.name} does not know all cases that it was trained on (earlier "
            "versions kept no hashes): validation cases may be among them, and scores too good"
        )
    if not seen:
        return ""
    more = ", ..." if len(seen) > MOST_NAMES else ""
    return (
        f"{len(seen)} of {num_cases} validation cases were training cases of the model "
        f"{source.name}, which this run starts from: {', '.join(seen[:MOST_NAMES])}{more}; "
        "their scores are not those of unseen cases"
    )


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
