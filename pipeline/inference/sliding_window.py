"""Predict a volume of any size, window by window, blended with a Gaussian.

Axes: B = batch, C = channels or classes, I, J, K = voxel axes in RAS order.
"""

import torch
from monai.inferers import sliding_window_inference
from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from pipeline.inference.precision import Precision, autocast_type


class InferenceConfig(BaseModel):
    """How windows are laid over a volume and computed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    window: tuple[PositiveInt, PositiveInt, PositiveInt] | None = Field(
        default=None, description="Window in working voxels; the training patch if not given."
    )
    overlap: float = Field(default=0.5, ge=0, lt=1, description="Share of a window's edge.")
    batch_size: int = Field(default=4, ge=1, description="Windows computed at once.")
    precision: Precision = Field(default="auto", description="Of the network's arithmetic.")


def predict(
    data_CIJK: torch.Tensor,
    network: torch.nn.Module,
    config: InferenceConfig,
    device: torch.device,
) -> torch.Tensor:
    """Predict class probabilities for a whole working volume.

    A volume smaller than the window is padded by repeating its border, as in training.

    Args:
        data_CIJK: `(C, I, J, K)` normalised float32.
        network: Gives logits of the input's size; used in evaluation mode, its mode is kept.
        config: With `window` set.
        device: To compute on.

    Returns:
        `(num_classes, I, J, K)` float32 probabilities on the CPU; they sum to one.

    Raises:
        ValueError: If `config.window` is not set.

    Source:
        Gaussian weights: Isensee et al., Nature Methods 18, 2021, doi:10.1038/s41592-020-01008-z.
    """
    if config.window is None:
        raise ValueError("config.window is not set")
    dtype = autocast_type(config.precision, device)
    was_training = network.training
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
                lambda windows: network(windows).float(),
                overlap=config.overlap,
                mode="gaussian",
                padding_mode="replicate",
                sw_device=device,
                device=torch.device("cpu"),
            )
    finally:
        network.train(was_training)
    probabilities: torch.Tensor = torch.softmax(logits_BCIJK[0], dim=0)
    return probabilities
