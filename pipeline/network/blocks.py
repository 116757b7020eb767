"""What the networks are made of: convolutions, normalisation, the ways down and up.

Torch's own copies channels-last tensors to contiguous and back, forwards and backwards. Group
normalisation with one channel a group is the same function and keeps the layout, but its backward
pass is slow on channels-last tensors: 130 ms where the forward pass takes 2. So that pass is
written here, as sums and multiplications over rows long enough for vector instructions.

On a GPU autocast computes group normalisation in float32 and with copies, which is several times
the memory traffic of batch normalisation over the channels of all cases, the same function again.

Axes: B = batch, C = channels, I, J, K = voxels; R rows of W voxels side by side.

Shapes: B batch, C channels, I J K voxels.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional

from pipeline.network.config import Level, NetworkConfig, Size

MAX_ROW_VOXELS = 64
"""Voxels side by side in one row; with 16 channels each, 1024 numbers."""


class InstanceNorm(nn.Module):
    """Zero mean and unit variance for each case and channel, then a learnt scale and shift.

    Computes, and names its weights, as `torch.nn.InstanceNorm3d(num_channels, affine=True)`.

    Source:
        Ulyanov et al., Instance Normalization, 2016, arXiv:1607.08022.
    """

    def __init__(self, num_channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.eps = eps

    def forward(self, x_BCIJK: torch.Tensor) -> torch.Tensor:
        """Normalise; the result has the layout of the input, on a GPU it is contiguous."""
        if x_BCIJK.device.type == "cuda":
            return _as_batch_norm(x_BCIJK, self.weight, self.bias, self.eps)
        is_channels_last = x_BCIJK.is_contiguous(memory_format=torch.channels_last_3d)
        if torch.is_grad_enabled() and is_channels_last and x_BCIJK.device.type == "cpu":
            y_BCIJK: torch.Tensor = _ChannelsLast.apply(  # type: ignore[no-untyped-call]
                x_BCIJK, self.weight, self.bias, self.eps
            )
            return y_BCIJK
        return functional.group_norm(x_BCIJK, x_BCIJK.shape[1], self.weight, self.bias, self.eps)


def _as_batch_norm(
    x_BCIJK: torch.Tensor, weight_C: torch.Tensor, bias_C: torch.Tensor, eps: float
) -> torch.Tensor:
    """Normalise every channel of every case as a channel of one case; statistics in float32."""
    num_cases = len(x_BCIJK)
    one_case = x_BCIJK.reshape(1, -1, *x_BCIJK.shape[2:])
    weights = weight_C.repeat(num_cases), bias_C.repeat(num_cases)
    y, _, _ = torch.native_batch_norm(
        one_case, *weights, None, None, training=True, momentum=0.0, eps=eps
    )
    return y.view(x_BCIJK.shape)


class _ChannelsLast(torch.autograd.Function):
    """The same function, with a backward pass for channels-last tensors."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x_BCIJK: torch.Tensor,
        weight_C: torch.Tensor,
        bias_C: torch.Tensor,
        eps: float,
    ) -> torch.Tensor:
        num_cases, num_channels = x_BCIJK.shape[:2]
        num_voxels = math.prod(x_BCIJK.shape[2:])
        y_BCIJK, mean_BC, inverse_std_BC = torch.native_group_norm(
            x_BCIJK, weight_C, bias_C, num_cases, num_channels, num_voxels, num_channels, eps
        )
        ctx.save_for_backward(x_BCIJK, weight_C, mean_BC, inverse_std_BC)
        return y_BCIJK

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401
        grad_BCIJK: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
        x_BCIJK, weight_C, mean_BC, inverse_std_BC = ctx.saved_tensors
        num_voxels = math.prod(x_BCIJK.shape[2:])
        width = math.gcd(num_voxels, MAX_ROW_VOXELS)
        x_BRW, grad_BRW = _rows(x_BCIJK, width), _rows(grad_BCIJK, width)

        # With h = (x - mean) / std and n voxels, which is linear in g and x:
        # dx = weight / std * (g - sum(g) / n - h * sum(g * h) / n).
        sum_grad_BC = _sum(grad_BRW, width, mean_BC.dtype)
        sum_grad_x_BC = _sum(grad_BRW * x_BRW, width, mean_BC.dtype)
        sum_grad_h_BC = (sum_grad_x_BC - mean_BC * sum_grad_BC) * inverse_std_BC
        of_grad_BC = weight_C * inverse_std_BC
        of_x_BC = -of_grad_BC * sum_grad_h_BC * inverse_std_BC / num_voxels
        constant_BC = -of_grad_BC * sum_grad_BC / num_voxels - of_x_BC * mean_BC

        def wide(factor_BC: torch.Tensor) -> torch.Tensor:
            return factor_BC.to(x_BCIJK.dtype).repeat(1, width)[:, None]

        dx_BRW = torch.addcmul(wide(constant_BC), x_BRW, wide(of_x_BC))
        dx_BRW.addcmul_(grad_BRW, wide(of_grad_BC))
        size = (x_BCIJK.shape[0], *x_BCIJK.shape[2:], x_BCIJK.shape[1])
        dx_BCIJK = dx_BRW.view(size).permute(0, 4, 1, 2, 3)
        dtype = weight_C.dtype
        return dx_BCIJK, sum_grad_h_BC.sum(0).to(dtype), sum_grad_BC.sum(0).to(dtype), None


def _rows(x_BCIJK: torch.Tensor, width: int) -> torch.Tensor:
    """View channels-last data as rows of `width` voxels with all their channels."""
    num_cases, num_channels = x_BCIJK.shape[:2]
    return x_BCIJK.permute(0, 2, 3, 4, 1).reshape(num_cases, -1, width * num_channels)


def _sum(values_BRW: torch.Tensor, width: int, dtype: torch.dtype) -> torch.Tensor:
    """Sum over all voxels, in `dtype` from the sums over rows on."""
    num_cases = len(values_BRW)
    return values_BRW.sum(1).to(dtype).view(num_cases, width, -1).sum(1)


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


Logits = torch.Tensor | list[torch.Tensor]
# Makes the convolutions of a level from the number of incoming channels and the level.
StageFactory = Callable[[int, Level], nn.Module]


class Heads(nn.ModuleList):
    """1x1x1 convolutions from features to logits: one per supervised level, the finest first."""

    def __init__(self, features: Sequence[int], num_outputs: int) -> None:
        super().__init__(nn.Conv3d(channels, num_outputs, 1) for channels in features)

    def forward(self, features: Sequence[torch.Tensor]) -> Logits:
        """Map features, the finest first, to logits.

        Returns:
            The finest logits; while a network with several heads trains, those of every head.
        """
        if self.training and len(self) > 1:
            return [head(x) for head, x in zip(self, features, strict=True)]
        logits: torch.Tensor = self[0](features[0])
        return logits


class Decoder(nn.Module):
    """Per level: upsample, join the encoder's features, convolve. Then the heads.

    With deep supervision every level but the deepest has a head, as in Isensee et al., Nature
    Methods 18, 2021, doi:10.1038/s41592-020-01008-z.

    Args:
        config: Levels, upsampling and deep supervision.
        num_outputs: Channels of the logits.
        make_stage: Makes what follows a level's concatenation.
        make_gate: Makes what filters the encoder's features, given those of the level below.
    """

    def __init__(
        self,
        config: NetworkConfig,
        num_outputs: int,
        make_stage: StageFactory,
        make_gate: Callable[[Level, Level], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        fine, coarse = config.levels[:-1], config.levels[1:]
        pairs = list(zip(fine, coarse, strict=True))
        self.upsamples = nn.ModuleList(
            Upsample(below.features, level.features, below.stride, config.upsampling)
            for level, below in pairs
        )
        self.gates = nn.ModuleList(make_gate(*pair) for pair in pairs if make_gate is not None)
        self.stages = nn.ModuleList(make_stage(2 * level.features, level) for level in fine)
        supervised = fine if config.deep_supervision else fine[:1]
        self.heads = Heads([level.features for level in supervised], num_outputs)

    def forward(self, encoded: Sequence[torch.Tensor]) -> Logits:
        """Map the encoder's features of every level, the finest first, to logits."""
        x = encoded[-1]
        decoded: list[torch.Tensor] = []
        for index in reversed(range(len(self.stages))):
            skip = self.gates[index](encoded[index], x) if self.gates else encoded[index]
            x = self.stages[index](torch.cat((self.upsamples[index](x), skip), dim=1))
            decoded.insert(0, x)
        logits: Logits = self.heads(decoded[: len(self.heads)])
        return logits
