"""Networks by name, and what they cost."""

import copy
from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.network.config import NetworkConfig, Size
from pipeline.network.depthwise_unets import LightUNet, MedNeXt
from pipeline.network.plain import FCN, SegNet
from pipeline.network.transformers import UNETR, TransUNet
from pipeline.network.unet import AttentionUNet, ResidualUNet, UNet, UNetPlusPlus


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


NETWORKS: Mapping[str, Callable[[NetworkConfig, int, int], nn.Module]] = {
    "unet": UNet,
    "residual_unet": ResidualUNet,
    "attention_unet": AttentionUNet,
    "unet_plus_plus": UNetPlusPlus,
    "mednext": MedNeXt,
    "light_unet": LightUNet,
    "fcn": FCN,
    "segnet": SegNet,
}
# These learn an embedding of each position of the patch.
POSITIONED: Mapping[str, Callable[[NetworkConfig, int, int, Size], nn.Module]] = {
    "unetr": UNETR,
    "trans_unet": TransUNet,
}


def build_network(
    config: NetworkConfig, num_channels: int, num_outputs: int, patch_size: Size | None = None
) -> nn.Module:
    """Build a network with random weights.

    Args:
        config: Name, levels and options.
        num_channels: Input channels.
        num_outputs: Output channels: classes with the background, or regions.
        patch_size: Voxels of a training patch, for networks that embed positions.

    Returns:
        Maps images `(B, num_channels, I, J, K)` to logits `(B, num_outputs, I, J, K)`. With deep
        supervision, a network in training mode returns a list of logits, the finest first, each
        at its own resolution.

    Raises:
        ValueError: If the network needs a patch size and there is none, or it does not fit.
    """
    if config.name in NETWORKS:
        return NETWORKS[config.name](config, num_channels, num_outputs)
    if patch_size is None:
        raise ValueError(f"{config.name} embeds positions and needs the size of the patches")
    config.check_size("patch_size", patch_size)
    return POSITIONED[config.name](config, num_channels, num_outputs, patch_size)
