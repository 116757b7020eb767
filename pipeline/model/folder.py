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

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch

from pipeline.errors import ModelError
from pipeline.files import sha256_of
from pipeline.hashes import TABLE, check_whole, link_noted, noted_path, write_noted
from pipeline.model.description import ModelDescription, metadata, parse_description
from pipeline.network import build_network
from pipeline.ownership import remove

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
    paths = weight_files(description.num_members)
    networks = tuple(_load_member(description, folder / path, device) for path in paths)
    return Model(description, networks, _hash(folder, description))


def copy_model(folder: Path, target: Path) -> None:
    """Copy a model folder with its evidence, without what else may lie in it.

    Raises:
        ModelError: If the folder is no model.
    """
    description = read_description(folder)
    _remove_model(target)
    evidence = [
        path.relative_to(folder)
        for path in sorted((folder / EVIDENCE).glob("*.*"))
        if path.name != TABLE
    ]
    for path in (*weight_files(description.num_members), *evidence, METADATA):
        link_noted(folder / path, target / path)


def hash_model(folder: Path) -> str:
    """Return the `sha256` that the model in `folder` will have when it is loaded.

    Raises:
        ModelError: If the folder is no model.
    """
    return _hash(folder, read_description(folder))


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
    paths = (METADATA, *weight_files(description.num_members))
    for path in paths:
        # Damage must not pass for another model.
        check_whole(folder / path, ModelError, "Copy the whole model folder anew, or train again.")
    for path in paths[1:]:
        # Of models of earlier versions, no hash is known; its header says how long the file is.
        with _weights_named(folder / path), safetensors.safe_open(folder / path, "pt"):
            pass
    return sha256_of(*(folder / path for path in paths))


def _load_member(
    description: ModelDescription, path: Path, device: torch.device
) -> torch.nn.Module:
    try:
        network = build_network(
            description.network,
            len(description.channels),
            description.num_outputs,
            description.patch_size,
        )
    except (ArithmeticError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        # Memory that torch cannot get is a RuntimeError, too.
        found = "the network it describes cannot be built"
        raise ModelError(path, found, "Use the model as Trivox wrote it.") from error
    _load_weights(network, path)
    return network.to(device).eval()


def _load_weights(network: torch.nn.Module, path: Path) -> None:
    with _weights_named(path):
        weights = safetensors.torch.load_file(path)
        if weights.keys() != dict(named_weights(network)).keys():
            raise RuntimeError("other names")
        # Not strict, since a weight's second name is not in the file.
        network.load_state_dict(weights, strict=False)
    check_whole(path, ModelError, "Copy the whole model folder anew, or train again.")


@contextmanager
def _weights_named(path: Path) -> Iterator[None]:
    """Turn what is wrong with a file of weights into an error that names it."""
    try:
        yield
    except FileNotFoundError as error:
        remedy = "Copy the whole model folder, or train again."
        raise ModelError(path, "the weights are missing", remedy) from error
    except (safetensors.SafetensorError, RuntimeError, OSError) as error:
        found = "the weights cannot be read or do not fit the network"
        raise ModelError(path, found, "Copy the folder anew, or train again.") from error


def read_description(folder: Path) -> ModelDescription:
    """Read what a model folder says of its model, without the weights.

    Raises:
        ModelError: If the folder is no model, or does not fit this version.
    """
    path = folder / METADATA
    if not path.is_file():
        remedy = "Give the folder `model` of a finished run, for example runs/phantom_ct/model."
        raise ModelError(folder, "no model here (configs/metadata.json is missing)", remedy)
    description = parse_description(path)
    help_ = f"Copy the whole folder anew; if it was changed on purpose, remove {TABLE} beside it."
    check_whole(path, ModelError, help_)
    return description
