"""Carry weights from one network to another of the same kind.

Which axis of a weight follows the input channels or the outputs is not told by its name: the
network is built anew with one more of each, and what grew is what follows.

Axes: D = features; I, J, K = places in a patch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch.nn.functional import interpolate

from pipeline.model import ModelDescription, named_weights
from pipeline.network import build_network

Axes = tuple[int, ...]


@dataclass(frozen=True)
class Transfer:
    """What became of each weight.

    Attributes:
        loaded: Names of those taken as they are.
        resized: Names of those adapted, and how.
        skipped: Names of those that keep their random start, or that only the source has, and why.
    """

    loaded: list[str] = field(default_factory=list)
    resized: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def transfer_weights(
    source: torch.nn.Module,
    theirs: ModelDescription,
    target: torch.nn.Module,
    ours: ModelDescription,
    channels: Sequence[int | None],
) -> Transfer:
    """Copy the weights of `source` into `target`, adapting those that must change shape.

    Outputs are matched by the name of what they stand for; a new one keeps its random weights. An
    input channel that is new takes the mean over the source's. Embeddings of the places in a patch
    are interpolated.

    Args:
        source: Network to take weights from.
        theirs: Its description.
        target: Network to put them into, in place.
        ours: Its description.
        channels: For each channel of `target` which of the source's it continues; None for none.
    """
    transfer = Transfer()
    outputs = [
        theirs.output_names.index(name) if name in theirs.output_names else None
        for name in ours.output_names
    ]
    follows_input = axes_that_follow(ours, "channels")
    follows_output = axes_that_follow(ours, "outputs")
    given = dict(named_weights(source))
    with torch.no_grad():
        for name, own in named_weights(target):
            found = given.pop(name, None)
            if found is None:
                transfer.skipped[name] = "the source has no such weights"
                continue
            new: torch.Tensor | None = found
            how = ""
            if name in follows_input and list(channels) != list(range(len(theirs.channels))):
                new = _pick_channels(found, follows_input[name], channels)
                how = _say_channels(channels, ours)
            elif name in follows_output and ours.output_names != theirs.output_names:
                new = _pick_outputs(own, found, follows_output[name], outputs)
                how = _say_outputs(outputs, ours)
            elif found.shape != own.shape:
                new, how = _resize_places(found, own), "places in the patch interpolated"
            _put(new, how, name, own, transfer)
    transfer.skipped.update(dict.fromkeys(given, "the network has no such weights"))
    return transfer


def axes_that_follow(
    description: ModelDescription, follows: Literal["channels", "outputs"]
) -> dict[str, Axes]:
    """Return the weights that change with the input channels or the outputs, and along which axes.

    Args:
        description: Of the network.
        follows: Which of the two.
    """
    as_it_is = _shapes(description, follows, 0)
    grown = _shapes(description, follows, 1)
    if not as_it_is.keys() <= grown.keys():
        # A residual block has no shortcut's weights where it happens to give what it takes.
        grown = _shapes(description, follows, 2) | grown
    return {
        name: tuple(axis for axis, size in enumerate(shape) if size != grown[name][axis])
        for name, shape in as_it_is.items()
        if shape != grown[name]
    }


def _shapes(
    description: ModelDescription, follows: Literal["channels", "outputs"], more: int
) -> dict[str, torch.Size]:
    # Building draws random weights, which must not change those of the run.
    with torch.random.fork_rng(devices=[]):
        network = build_network(
            description.network,
            len(description.channels) + more * (follows == "channels"),
            description.num_outputs + more * (follows == "outputs"),
            description.patch_size,
        )
    return {name: weight.shape for name, weight in named_weights(network)}


def _put(
    new: torch.Tensor | None, how: str, name: str, own: torch.Tensor, transfer: Transfer
) -> None:
    if new is None or new.shape != own.shape:
        transfer.skipped[name] = "the shapes differ"
        return
    own.copy_(new)
    if how:
        transfer.resized[name] = how
    else:
        transfer.loaded.append(name)


def _pick_channels(found: torch.Tensor, axes: Axes, channels: Sequence[int | None]) -> torch.Tensor:
    for axis in axes:
        mean = found.mean(dim=axis)
        parts = [mean if place is None else found.select(axis, place) for place in channels]
        found = torch.stack(parts, dim=axis)
    return found


def _pick_outputs(
    own: torch.Tensor, found: torch.Tensor, axes: Axes, outputs: Sequence[int | None]
) -> torch.Tensor:
    """Return `own` with the rows that the source knows; where an axis pair meets, both must."""
    ours = [index for index, place in enumerate(outputs) if place is not None]
    theirs = [place for place in outputs if place is not None]
    mine, others = (
        np.ix_(*(rows if axis in axes else range(size) for axis, size in enumerate(tensor.shape)))
        for rows, tensor in ((ours, own), (theirs, found))
    )
    new = own.clone()
    new[mine] = found[others]
    return new


def _say_channels(channels: Sequence[int | None], ours: ModelDescription) -> str:
    said = [
        f"{channel.name}: {'mean of all' if place is None else f'channel {place}'}"
        for channel, place in zip(ours.channels, channels, strict=True)
    ]
    return f"input channels from the source's: {', '.join(said)}"


def _say_outputs(outputs: Sequence[int | None], ours: ModelDescription) -> str:
    said = [
        f"{name}: {'random' if place is None else f'row {place}'}"
        for name, place in zip(ours.output_names, outputs, strict=True)
    ]
    return f"outputs from the source's: {', '.join(said)}"


def _resize_places(found: torch.Tensor, own: torch.Tensor) -> torch.Tensor | None:
    """Interpolate `(1, D, I, J, K)` embeddings of the places of a patch of another size."""
    if not (found.ndim == own.ndim == 5 and found.shape[:2] == (1, own.shape[1])):
        return None
    return interpolate(found, size=tuple(own.shape[2:]), mode="trilinear")
