"""A trained model as a folder: weights, and everything that using them needs.

    model/configs/metadata.json      what MONAI bundles say of a network, and Trivox's description
    model/models/model.safetensors   the weights; loading them cannot execute code
    model/models/member_0.safetensors, member_1.safetensors, ...   instead, where there are several
    model/postprocessing/            how post-processing was chosen, if it was: files to look at

The layout and the metadata are those of a MONAI Bundle; only the weights, which a bundle keeps as a
pickle, are safetensors.

Source:
    MONAI Bundle Specification, https://docs.monai.io/en/stable/mb_specification.html.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch.overrides import TorchFunctionMode

from pipeline.errors import ModelError
from pipeline.model.description import ModelDescription, metadata, parse_description
from pipeline.model.weights import COPY_AGAIN, inspect_weights, read_weights
from pipeline.network import build_network
from pipeline.system.files import sha256_of
from pipeline.system.hashes import TABLE, check_whole, link_noted, noted_path, state_of, write_noted
from pipeline.system.memory import available_bytes
from pipeline.system.ownership import remove
from pipeline.system.text import open_ordinary

METADATA = Path("configs", "metadata.json")
WEIGHTS = Path("models", "model.safetensors")
EVIDENCE = Path("postprocessing")
"""Folder of what belongs to the model but is not needed to use it."""


@dataclass(frozen=True)
class Model:
    """A model ready for use.

    Attributes:
        description: How to use it.
        networks: Its members, on their device, in evaluation mode; never empty.
        sha256: Of the description and the weights on disk; empty while training.
    """

    description: ModelDescription
    networks: tuple[torch.nn.Module, ...]
    sha256: str = ""


def save_model(model: Model, folder: Path) -> None:
    """Write a model folder, or replace the model in it.

    The metadata goes first and comes last, since without it a folder is no model: a killed run
    leaves no description beside the weights of another model.
    """
    _remove_model(folder)
    for path, network in zip(weight_files(len(model.networks)), model.networks, strict=True):
        weights = {name: weight.detach().contiguous() for name, weight in named_weights(network)}
        with noted_path(folder / path) as temporary:
            safetensors.torch.save_file(weights, temporary)
    save_description(
        model.description.model_copy(update={"num_members": len(model.networks)}), folder
    )


def save_description(description: ModelDescription, folder: Path) -> None:
    """Describe the model in a folder anew; its weights stay as they are."""
    write_noted(folder / METADATA, json.dumps(metadata(description), indent=2))


def load_model(folder: Path, device: torch.device) -> Model:
    """Read a model folder.

    Raises:
        ModelError: If the folder is no model, is torn, or does not fit this version.
    """
    description = read_description(folder)
    with open_ordinary(folder / METADATA) as file:
        digest = hashlib.sha256(file.read())
    members = _load_members(description, folder, digest)
    networks = tuple(network.to(device).eval() for network in members)
    return Model(description, networks, digest.hexdigest())


def copy_model(folder: Path, target: Path) -> None:
    """Copy a model folder with its evidence, without what else may lie in it.

    Raises:
        ModelError: If the folder is no model.
    """
    description = read_description(folder)
    wanted = _wanted(description, folder)
    for path in weight_files(description.num_members):
        inspect_weights(folder / path, wanted)
    _remove_model(target)
    evidence = [
        path.relative_to(folder)
        for path in sorted((folder / EVIDENCE).glob("*.*"))
        if path.name != TABLE and path.is_file()
    ]
    for path in (*weight_files(description.num_members), *evidence, METADATA):
        link_noted(folder / path, target / path)


def hash_model(folder: Path) -> str:
    """Return the `sha256` that the model in `folder` will have when it is loaded.

    Raises:
        ModelError: If the folder is no model.
    """
    return _hash(folder, read_description(folder))


def unhashed_parts(folder: Path) -> list[Path]:
    """Return the parts of a model of which no hash is kept, as in models of earlier versions.

    Raises:
        ModelError: If the folder is no model.
    """
    parts = (METADATA, *weight_files(read_description(folder).num_members))
    # Whatever the hash is, one is known of the others.
    return [part for part in parts if state_of(folder / part, sha256="") == "unknown"]


def weight_files(num_members: int) -> tuple[Path, ...]:
    """Return where the weights of each member lie in a model folder."""
    if num_members == 1:
        return (WEIGHTS,)
    return tuple(WEIGHTS.with_name(f"member_{index}.safetensors") for index in range(num_members))


def named_weights(network: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield each parameter and buffer once, though a U-Net may reach its blocks by two ways."""
    yield from network.named_parameters()
    yield from network.named_buffers()


def _remove_model(folder: Path) -> None:
    remove(folder / METADATA)
    for path in (folder / WEIGHTS).parent.glob("*.safetensors"):
        remove(path)
    # It is about the model that was there.
    remove(folder / EVIDENCE)


def _hash(folder: Path, description: ModelDescription) -> str:
    """Return the hash of all parts; the weights must be those of the network described.

    Where all parts are as they were written together that holds, and no network is built to
    compare with: what that imports takes seconds.
    """
    paths = [folder / path for path in (METADATA, *weight_files(description.num_members))]
    if any(state_of(path) != "whole" for path in paths):
        wanted = _wanted(description, folder)
        for path in paths[1:]:
            inspect_weights(path, wanted)
        for path in paths:
            # Damage must not pass for another model.
            check_whole(path, ModelError, COPY_AGAIN)
    return sha256_of(*paths)


class _Unfilled(TorchFunctionMode):
    """Fills nothing at random: where there is no memory, torch imports its compiler for that."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Call a function of torch, but for those that fill a tensor in place."""
        if func in (torch.Tensor.normal_, torch.Tensor.uniform_):
            return args[0]
        return func(*args, **(kwargs or {}))


def _blueprint(description: ModelDescription, folder: Path) -> torch.nn.Module:
    """Return the network that a model describes, without memory for its weights."""
    try:
        with torch.device("meta"), _Unfilled():
            return build_network(
                description.network,
                len(description.channels),
                description.num_outputs,
                description.patch_size,
            )
    except (ArithmeticError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        found = "the network it describes cannot be built"
        raise ModelError(folder / METADATA, found, "Use the model as Trivox wrote it.") from error


def _wanted(description: ModelDescription, folder: Path) -> dict[str, torch.Tensor]:
    return dict(named_weights(_blueprint(description, folder)))


def _load_members(
    description: ModelDescription, folder: Path, digest: "hashlib._Hash"
) -> Iterator[torch.nn.Module]:
    """Yield the networks; all files are looked at before the first is read."""
    paths = [folder / path for path in weight_files(description.num_members)]
    wanted = _wanted(description, folder)
    num_bytes = sum(inspect_weights(path, wanted).num_bytes for path in paths)
    _check_room(folder, num_bytes)
    for path in paths:
        own = hashlib.sha256()
        weights = read_weights(path, wanted, own, digest)
        check_whole(path, ModelError, COPY_AGAIN, sha256=own.hexdigest())
        network = _blueprint(description, folder)
        # Not strict, since a weight's second name is not in the file.
        network.load_state_dict(weights, strict=False, assign=True)
        yield network


def _check_room(folder: Path, num_bytes: int) -> None:
    free = available_bytes()
    if num_bytes > free:
        found = f"the weights take {num_bytes / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free"
        raise ModelError(folder, found, "Free memory, or use a larger machine.")


def read_description(folder: Path) -> ModelDescription:
    """Read what a model folder says of its model, without the weights.

    Raises:
        ModelError: If the folder is no model, or does not fit this version.
    """
    path = folder / METADATA
    # What lies there and is no file is named by the reader.
    if not os.path.lexists(path):
        remedy = "Give the folder `model` of a finished run, for example runs/phantom_ct/model."
        raise ModelError(folder, "no model here (configs/metadata.json is missing)", remedy)
    description = parse_description(path)
    help_ = f"Copy the whole folder anew; if it was changed on purpose, remove {TABLE} beside it."
    check_whole(path, ModelError, help_)
    return description
