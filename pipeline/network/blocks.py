"""What the networks are made of: convolution, normalisation, activation; downwards and upwards.

Shapes: B batch, C channels, I J K voxels.
"""

from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from pipeline.network.config import Size
from pipeline.network.norm import InstanceNorm

Upsampling = Literal["transposed", "linear"]
LEAK = 0.01


def instance_norm(channels: int) -> nn.Module:
    """Return the normalisation of all networks: per case and channel, with scale and shift.

    Source:
        Ulyanov et al., Instance Normalization, 2016, arXiv:1607.08022.
    """
    return InstanceNorm(channels)


def initialise(module: nn.Module) -> None:
    """Initialise a convolution as He et al. do for leaky ReLU; use as `network.apply(initialise)`.

    Source:
        He et al., Delving Deep into Rectifiers, ICCV 2015, doi:10.1109/ICCV.2015.123.
    """
    if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, a=LEAK)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def same_padding(kernel_size: Size) -> Size:
    """Return the padding with which an odd kernel keeps the size, or divides it by its stride."""
    i, j, k = (n // 2 for n in kernel_size)
    return i, j, k


class ConvNormAct(nn.Sequential):
    """Convolution, dropout, instance normalisation, leaky ReLU.

    The convolution has no bias, since the normalisation would remove it.
    """

    def __init__(
        self,
        num_in: int,
        num_out: int,
        kernel_size: Size,
        stride: Size = (1, 1, 1),
        dropout: float = 0.0,
    ) -> None:
        padding = same_padding(kernel_size)
        layers: list[nn.Module] = [
            nn.Conv3d(num_in, num_out, kernel_size, stride, padding, bias=False)
        ]
        if dropout:
            layers.append(nn.Dropout(dropout))
        super().__init__(*layers, instance_norm(num_out), nn.LeakyReLU(LEAK, inplace=True))


class ConvStack(nn.Sequential):
    """Several `ConvNormAct` in a row; the first changes the number of channels."""

    def __init__(
        self, num_in: int, num_out: int, kernel_size: Size, blocks: int, dropout: float
    ) -> None:
        super().__init__(
            *(
                ConvNormAct(num_out if n else num_in, num_out, kernel_size, dropout=dropout)
                for n in range(blocks)
            )
        )


class MaxPool(nn.Module):
    """The largest of each block of `stride` voxels."""

    def __init__(self, stride: Size) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x_BCIJK: torch.Tensor) -> torch.Tensor:
        """Divide the size by the stride."""
        # With indices, since autocast would turn the plain kind into float32.
        return functional.max_pool3d(x_BCIJK, self.stride, return_indices=True)[0]


class Upsample(nn.Module):
    """Multiply the size by `stride` and set the number of channels.

    Either a transposed convolution of the stride's size, or trilinear interpolation after a
    1x1x1 convolution (both are linear, so their order does not matter, and this one is cheaper).
    """

    def __init__(self, num_in: int, num_out: int, stride: Size, upsampling: Upsampling) -> None:
        super().__init__()
        self.stride = stride
        self.is_linear = upsampling == "linear"
        self.conv: nn.Module
        if self.is_linear:
            self.conv = nn.Conv3d(num_in, num_out, 1, bias=False)
        else:
            self.conv = nn.ConvTranspose3d(num_in, num_out, stride, stride, bias=False)

    def forward(self, x_BCIJK: torch.Tensor) -> torch.Tensor:
        """Go one level up."""
        x_BCIJK = self.conv(x_BCIJK)
        return interpolate(x_BCIJK, self.stride) if self.is_linear else x_BCIJK


def interpolate(x_BCIJK: torch.Tensor, stride: Size) -> torch.Tensor:
    """Multiply the size by `stride`, trilinearly."""
    if max(stride) == 1:
        return x_BCIJK
    i, j, k = (n * s for n, s in zip(x_BCIJK.shape[2:], stride, strict=True))
    return functional.interpolate(x_BCIJK, (i, j, k), mode="trilinear", align_corners=False)
