"""The arithmetic of overlapping windows, a few planes at a time so that they stay in a cache.

Axes: C = outputs; U, V, W = voxels along columns, rows and slabs.
"""

from collections.abc import Iterator

import torch

from pipeline.inference.config import Activation

CHUNK_VALUES = {"cpu": 2**19, "cuda": 2**24}
"""Logits that are worked on at once: what one core's cache holds; what takes a GPU longer than it
takes the host to ask for it, in a few copies of 64 MiB."""


def add_weighted(
    sums_CUVW: torch.Tensor, logits_CUVW: torch.Tensor, weight_UVW: torch.Tensor
) -> None:
    """Add weighted logits to sums, in float32, whatever both are stored in.

    Args:
        sums_CUVW: Changed in place.
        logits_CUVW: Of a window, or the part of it that lies in the cell.
        weight_UVW: Of each voxel.
    """
    for sums, logits, weight in _planes(sums_CUVW, logits_CUVW, weight_UVW):
        if sums.dtype == torch.float32:
            sums.addcmul_(logits.float(), weight)
        else:
            sums.copy_(torch.addcmul(sums.float(), logits.float(), weight))


def activate(sums_CUVW: torch.Tensor, weight_UVW: torch.Tensor, activation: Activation) -> None:
    """Turn sums of weighted logits into probabilities, in place.

    Where no window was, background is certain, or every region absent.

    Args:
        sums_CUVW: Sums of weighted logits.
        weight_UVW: Sums of the weights.
        activation: `softmax` where outputs exclude each other, `sigmoid` where they overlap.
    """
    for values, _, weight in _planes(sums_CUVW, sums_CUVW, weight_UVW):
        is_covered = weight > 0
        logits = values.float() / torch.where(is_covered, weight, 1)
        probability = logits.softmax(dim=0) if activation == "softmax" else logits.sigmoid()
        # Asking a GPU would wait for it.
        if values.is_cuda or not is_covered.all():
            probability.masked_fill_(~is_covered, 0)
            if activation == "softmax":
                probability[0].masked_fill_(~is_covered, 1)
        values.copy_(probability)


def _planes(
    first_CUVW: torch.Tensor, second_CUVW: torch.Tensor, weight_UVW: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Cut across columns, into parts of about `CHUNK_VALUES`."""
    at_once = CHUNK_VALUES[first_CUVW.device.type]
    num_columns = first_CUVW.shape[1]
    values_per_column = first_CUVW.numel() // num_columns
    edge = max(1, at_once // max(1, values_per_column))
    return zip(
        torch.split(first_CUVW, edge, dim=1),
        torch.split(second_CUVW, edge, dim=1),
        torch.split(weight_UVW, edge, dim=0),
        strict=True,
    )
