"""Convolutions of each channel by itself, made to train fast on a CPU."""

import torch
from torch import nn
from torch.nn import functional

from pipeline.network.blocks import same_padding
from pipeline.network.config import Size

GROUP = 16


class DepthwiseConv(nn.Conv3d):
    """A convolution of each channel by itself.

    torch has a fast depthwise kernel for CPUs forwards, but its gradients take about seven times
    as long as those of a convolution with 16 channels a group, which vector units are made for. So
    while gradients are wanted, this is such a convolution, whose kernels across channels are zero:
    the same function, with more arithmetic in less time.
    """

    def __init__(
        self, channels: int, kernel_size: Size, stride: Size = (1, 1, 1), *, bias: bool = True
    ) -> None:
        padding = same_padding(kernel_size)
        super().__init__(
            channels, channels, kernel_size, stride, padding, groups=channels, bias=bias
        )

    def forward(self, x_BCIJK: torch.Tensor) -> torch.Tensor:
        """Divide the size by the stride."""
        is_fast = not (torch.is_grad_enabled() and x_BCIJK.device.type == "cpu")
        if is_fast or self.in_channels % GROUP:
            return super().forward(x_BCIJK)
        own = torch.arange(self.in_channels) % GROUP
        is_own = functional.one_hot(own, GROUP).to(self.weight.dtype)[..., None, None, None]
        return functional.conv3d(
            x_BCIJK,
            self.weight * is_own,
            self.bias,
            self.stride,
            self.padding,
            groups=self.in_channels // GROUP,
        )
