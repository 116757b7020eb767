"""Networks by name."""

from collections.abc import Callable, Mapping

from torch import nn

from pipeline.network.attention_unet import AttentionUNet
from pipeline.network.config import NetworkConfig, Size
from pipeline.network.fcn import FCN
from pipeline.network.light_unet import LightUNet
from pipeline.network.mednext import MedNeXt
from pipeline.network.residual_unet import ResidualUNet
from pipeline.network.segnet import SegNet
from pipeline.network.trans_unet import TransUNet
from pipeline.network.unet import UNet
from pipeline.network.unet_plus_plus import UNetPlusPlus
from pipeline.network.unetr import UNETR

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
