"""Predict a volume of any size, window by window, blended with a Gaussian.

Axes: B = batch, C = channels or outputs, I, J, K = voxel axes in RAS order.
"""

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from monai.inferers import sliding_window_inference
from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from pipeline.inference.precision import Precision, autocast_type

FlipAxis = Literal["R", "A", "S"]
Activation = Literal["softmax", "sigmoid"]

_AXES: tuple[FlipAxis, ...] = ("R", "A", "S")


class InferenceConfig(BaseModel):
    """How windows are laid over a volume and computed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    window: tuple[PositiveInt, PositiveInt, PositiveInt] | None = Field(
        default=None, description="Window in working voxels; the training patch if not given."
    )
    overlap: float = Field(default=0.5, ge=0, lt=1, description="Share of a window's edge.")
    batch_size: int = Field(default=4, ge=1, description="Windows computed at once.")
    precision: Precision = Field(default="auto", description="Of the network's arithmetic.")
    mirror: bool = Field(
        default=False,
        description="Average over mirrored windows too, along the axes that training mirrored: "
        "twice the time for one axis, four times for two, eight for three.",
    )

    def check_mirror(self, mirror_axes: Sequence[FlipAxis]) -> None:
        """Refuse to mirror what the network never saw mirrored.

        Raises:
            ValueError: If mirroring is asked for and `mirror_axes` is empty.
        """
        if self.mirror and not mirror_axes:
            raise ValueError(
                "inference.mirror=true, but the training patches were mirrored along no axis; "
                "leave it out, or train with augmentation.flip_axes"
            )


def predict(
    data_CIJK: torch.Tensor,
    networks: Sequence[torch.nn.Module],
    config: InferenceConfig,
    device: torch.device,
    mirror_axes: Sequence[FlipAxis] = (),
    activation: Activation = "softmax",
) -> torch.Tensor:
    """Predict probabilities for a whole working volume.

    A volume smaller than the window is padded by repeating its border, as in training. Logits are
    averaged over members and mirrored windows before they are blended, so that only one volume of
    logits exists however many members there are.

    Args:
        data_CIJK: `(C, I, J, K)` normalised float32.
        networks: Members; each gives logits of the input's size. Used in evaluation mode; their
            mode is kept.
        config: With `window` set.
        device: To compute on.
        mirror_axes: Axes along which the networks were trained to bear flips; used if
            `config.mirror`. All combinations of them are averaged.
        activation: `softmax` where outputs exclude each other, `sigmoid` where they overlap.

    Returns:
        `(num_outputs, I, J, K)` float32 probabilities on the CPU; of a softmax, they sum to one.

    Raises:
        ValueError: If `config.window` is not set, or mirroring is asked for without axes.

    Source:
        Gaussian weights, mirroring: Isensee et al., Nature Methods 18, 2021,
        doi:10.1038/s41592-020-01008-z.
    """
    if config.window is None:
        raise ValueError("config.window is not set")
    config.check_mirror(mirror_axes)
    flips = _flips(mirror_axes if config.mirror else ())
    dtype = autocast_type(config.precision, device)
    were_training = [network.training for network in networks]
    for network in networks:
        network.eval()
    try:
        with (
            torch.inference_mode(),
            torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None),
        ):
            logits_BCIJK = sliding_window_inference(
                data_CIJK[None],
                config.window,
                config.batch_size,
                lambda windows: _mean_logits(windows, networks, flips),
                overlap=config.overlap,
                mode="gaussian",
                padding_mode="replicate",
                sw_device=device,
                device=torch.device("cpu"),
            )
    finally:
        for network, was_training in zip(networks, were_training, strict=True):
            network.train(was_training)
    if activation == "sigmoid":
        return torch.sigmoid(logits_BCIJK[0])
    return torch.softmax(logits_BCIJK[0], dim=0)


def _flips(axes: Sequence[FlipAxis]) -> list[tuple[int, ...]]:
    """Return the dimensions of a `BCIJK` tensor that each combination of `axes` flips."""
    dimensions = [2 + _AXES.index(axis) for axis in axes]
    counts = range(len(dimensions) + 1)
    return [flip for count in counts for flip in itertools.combinations(dimensions, count)]


def _mean_logits(
    windows_BCIJK: torch.Tensor,
    networks: Sequence[torch.nn.Module],
    flips: Sequence[tuple[int, ...]],
) -> torch.Tensor:
    """Average over members and flips, one after the other."""
    total_BCIJK: torch.Tensor | None = None
    for network, flip in itertools.product(networks, flips):
        logits_BCIJK = network(windows_BCIJK.flip(flip)).float().flip(flip)
        total_BCIJK = logits_BCIJK if total_BCIJK is None else total_BCIJK.add_(logits_BCIJK)
    if total_BCIJK is None:
        raise ValueError("no networks to predict with")
    return total_BCIJK.div_(len(networks) * len(flips))
