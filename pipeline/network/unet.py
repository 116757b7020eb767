"""The 3D U-Net, from MONAI's dynamic U-Net.

Source:
    Cicek et al., 3D U-Net, MICCAI 2016, doi:10.1007/978-3-319-46723-8_49; with instance
    normalisation and leaky ReLU as in Isensee et al., Nature Methods 18, 2021,
    doi:10.1038/s41592-020-01008-z.
"""

import torch
from monai.networks.nets import DynUNet
from pydantic import BaseModel, ConfigDict, Field, PositiveInt


class NetworkConfig(BaseModel):
    """Shape of the U-Net: one number of feature channels per level, the finest level first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: tuple[PositiveInt, ...] = Field(
        default=(16, 32, 64, 128), min_length=3, description="Channels of each level."
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Share of features left out.")

    @property
    def divisor(self) -> int:
        """Windows must be a multiple of this many voxels along each axis."""
        return 1 << (len(self.features) - 1)

    def check_size(self, key: str, size: tuple[int, int, int]) -> None:
        """Refuse a window that the levels cannot halve often enough.

        Raises:
            ValueError: Naming `key`, its value and what would do.
        """
        if any(n % self.divisor for n in size):
            raise ValueError(
                f"{key}={list(size)} must be multiples of {self.divisor}, since the network has "
                f"{len(self.features)} levels"
            )
        if max(size) == self.divisor:
            raise ValueError(
                f"{key}={list(size)} leaves a single voxel at the network's deepest level; use "
                f"{2 * self.divisor} along some axis"
            )


def build_network(config: NetworkConfig, num_channels: int, num_classes: int) -> torch.nn.Module:
    """Build a U-Net with random weights.

    Args:
        config: Levels and features.
        num_channels: Input channels.
        num_classes: Output channels, background included.

    Returns:
        Maps `(B, num_channels, I, J, K)` to logits `(B, num_classes, I, J, K)`.
    """
    levels = len(config.features)
    network: torch.nn.Module = DynUNet(
        spatial_dims=3,
        in_channels=num_channels,
        out_channels=num_classes,
        kernel_size=[3] * levels,
        strides=[1] + [2] * (levels - 1),
        upsample_kernel_size=[2] * (levels - 1),
        filters=list(config.features),
        dropout=config.dropout or None,
        norm_name=("instance", {"affine": True}),
        act_name=("leakyrelu", {"inplace": True, "negative_slope": 0.01}),
    )
    return network
