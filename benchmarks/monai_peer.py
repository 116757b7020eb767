"""MONAI's own U-Net with the weights of ours."""

import torch
from monai.networks.nets import DynUNet

from pipeline.network import NetworkConfig


def monai_unet(
    network: torch.nn.Module, config: NetworkConfig, num_channels: int, num_outputs: int
) -> torch.nn.Module:
    """Return a `DynUNet` that is the same function.

    Args:
        network: Ours.
        config: What it was built from.
        num_channels: Of its input.
        num_outputs: Of its output.
    """
    levels = config.levels
    theirs = DynUNet(
        spatial_dims=3,
        in_channels=num_channels,
        out_channels=num_outputs,
        kernel_size=[level.kernel_size for level in levels],
        strides=[level.stride for level in levels],
        upsample_kernel_size=[level.stride for level in levels[1:]],
        filters=[level.features for level in levels],
        norm_name=("instance", {"affine": True}),
    )
    weights = dict(network.named_parameters())
    if list(weights) != [name for name, _ in theirs.named_parameters()]:
        raise RuntimeError("the networks' weights have other names")
    # Not strict, since it knows each weight by two names.
    theirs.load_state_dict(weights, strict=False)
    return theirs
