"""What a network costs: parameters and arithmetic."""

import copy

import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.network.config import Size


def count_parameters(network: torch.nn.Module) -> int:
    """Return the number of weights that training changes, each counted once."""
    return sum(weight.numel() for weight in network.parameters() if weight.requires_grad)


def gflops(network: torch.nn.Module, num_channels: int, window: Size) -> float:
    """Return the arithmetic of one forward pass in evaluation mode.

    Nothing is computed: a copy without memory runs, so that any window can be asked for.

    Args:
        network: Stays as it is.
        num_channels: Input channels.
        window: Voxels along each axis.

    Returns:
        Billions of floating-point operations in convolutions and matrix products; a multiplication
        and its addition count as two. Normalisation and activation are not counted.
    """
    shadow = copy.deepcopy(network).to("meta").eval()
    image_BCIJK = torch.empty(1, num_channels, *window, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shadow(image_BCIJK)
    return float(counter.get_total_flops()) / 1e9
