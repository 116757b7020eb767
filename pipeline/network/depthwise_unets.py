"""U-Nets of depthwise convolutions: a light one, and MedNeXt.

MONAI's MedNeXt has neither anisotropic strides and kernels nor free features; ours equals it
otherwise.

Source:
    Howard et al., MobileNets, 2017, doi:10.48550/arXiv.1704.04861, for the convolutions; Cicek et
    al., 3D U-Net, MICCAI 2016, doi:10.1007/978-3-319-46723-8_49, for the rest.
    Roy et al., MedNeXt, MICCAI 2023, doi:10.1007/978-3-031-43901-8_39.
"""

import itertools

import torch
from torch import nn
from torch.nn import functional

from pipeline.network.blocks import (
    LEAK,
    ConvNormAct,
    Decoder,
    DepthwiseConv,
    Heads,
    Logits,
    initialise,
    instance_norm,
)
from pipeline.network.config import Level, NetworkConfig, Size


class SeparableConv(nn.Sequential):
    """A convolution of each channel by itself, then one across channels, each normalised."""

    def __init__(
        self, num_in: int, num_out: int, kernel_size: Size, stride: Size, dropout: float
    ) -> None:
        super().__init__(
            DepthwiseConv(num_in, kernel_size, stride, bias=False),
            instance_norm(num_in),
            nn.LeakyReLU(LEAK, inplace=True),
            ConvNormAct(num_in, num_out, (1, 1, 1), dropout=dropout),
        )


class SeparableStage(nn.Sequential):
    """The separable convolutions of one level; the first has the stride."""

    def __init__(self, num_in: int, level: Level, stride: Size, dropout: float) -> None:
        features, kernel_size, _, blocks = level
        super().__init__(
            SeparableConv(num_in, features, kernel_size, stride, dropout),
            *(
                SeparableConv(features, features, kernel_size, (1, 1, 1), dropout)
                for _ in range(blocks - 1)
            ),
        )


class LightUNet(nn.Module):
    """A U-Net of separable convolutions; the very first is a whole one, on few channels.

    `config.blocks` counts the separable convolutions of each level, on both paths.
    """

    def __init__(self, config: NetworkConfig, num_channels: int, num_outputs: int) -> None:
        super().__init__()
        levels, dropout = config.levels, config.dropout
        self.stem = ConvNormAct(
            num_channels, levels[0].features, levels[0].kernel_size, dropout=dropout
        )
        before = [levels[0].features, *config.features[:-1]]
        self.encoder = nn.ModuleList(
            SeparableStage(num_in, level, level.stride, dropout)
            for num_in, level in zip(before, levels, strict=True)
        )

        def make_stage(num_in: int, level: Level) -> nn.Module:
            return SeparableStage(num_in, level, (1, 1, 1), dropout)

        self.decoder = Decoder(config, num_outputs, make_stage)
        self.apply(initialise)

    def forward(self, image_BCIJK: torch.Tensor) -> Logits:
        """Map images to logits; a list of them, the finest first, in supervised training."""
        x = self.stem(image_BCIJK)
        encoded = []
        for stage in self.encoder:
            x = stage(x)
            encoded.append(x)
        logits: Logits = self.decoder(encoded)
        return logits


class Mixer(nn.Sequential):
    """What all blocks share: a depthwise layer, normalisation, widening, GELU, narrowing.

    Group normalisation with one channel a group, as in the paper, is instance normalisation.
    """

    def __init__(self, depthwise: nn.Module, num_in: int, num_out: int, expansion: int) -> None:
        super().__init__(
            depthwise,
            instance_norm(num_in),
            nn.Conv3d(num_in, expansion * num_in, 1),
            nn.GELU(),
            nn.Conv3d(expansion * num_in, num_out, 1),
        )


class MedNeXtBlock(nn.Module):
    """A residual block at one resolution."""

    def __init__(self, features: int, kernel_size: Size, expansion: int) -> None:
        super().__init__()
        self.mixer = Mixer(DepthwiseConv(features, kernel_size), features, features, expansion)

    def forward(self, x_BCIJK: torch.Tensor) -> torch.Tensor:
        """Keep the shape."""
        mixed: torch.Tensor = self.mixer(x_BCIJK)
        return mixed + x_BCIJK


class MedNeXtDown(nn.Module):
    """A residual block to the coarser level `coarse`; the shortcut is a strided 1x1x1 layer."""

    def __init__(self, num_in: int, coarse: Level, expansion: int) -> None:
        super().__init__()
        depthwise = DepthwiseConv(num_in, coarse.kernel_size, coarse.stride)
        self.mixer = Mixer(depthwise, num_in, coarse.features, expansion)
        self.shortcut = nn.Conv3d(num_in, coarse.features, 1, coarse.stride)

    def forward(self, x_BCIJK: torch.Tensor) -> torch.Tensor:
        """Go one level down."""
        coarse_BCIJK: torch.Tensor = self.mixer(x_BCIJK) + self.shortcut(x_BCIJK)
        return coarse_BCIJK


def interleave(x_BCIJK: torch.Tensor, stride: Size) -> torch.Tensor:
    """Put zeros between voxels: from n to stride * (n - 1) + 1 along each axis."""
    i, j, k = stride
    shape = [s * (n - 1) + 1 for n, s in zip(x_BCIJK.shape[2:], stride, strict=True)]
    spread_BCIJK = x_BCIJK.new_zeros(*x_BCIJK.shape[:2], *shape)
    spread_BCIJK[:, :, ::i, ::j, ::k] = x_BCIJK
    return spread_BCIJK


class MedNeXtUp(nn.Module):
    """A residual block to the finer level, padded in front along the axes where it strides.

    Its layers are transposed convolutions: convolutions after zeros are put between the voxels.
    They are computed just so, since CPUs have no fast kernel for the transposed kind.
    """

    def __init__(self, coarse: Level, num_out: int, expansion: int) -> None:
        super().__init__()
        num_in, kernel_size, self.stride, _ = coarse
        depthwise = DepthwiseConv(num_in, kernel_size)
        self.mixer = Mixer(depthwise, num_in, num_out, expansion)
        self.shortcut = nn.Conv3d(num_in, num_out, 1)
        self.padding = [pad for n in reversed(self.stride) for pad in (n - 1, 0)]

    def forward(self, x_BCIJK: torch.Tensor) -> torch.Tensor:
        """Go one level up."""
        x_BCIJK = interleave(x_BCIJK, self.stride)
        mixed: torch.Tensor = self.mixer(x_BCIJK)
        return functional.pad(mixed + self.shortcut(x_BCIJK), self.padding)


class MedNeXt(nn.Module):
    """A 1x1x1 stem, MedNeXt blocks on every level of both paths, and added skip connections.

    Kernels of 5 along every axis, `expansion` and `config.blocks` span the paper's variants;
    features (32, 64, 128, 256, 512) with two blocks everywhere and expansion 2 are MedNeXt-S.
    With deep supervision every level has a head, the deepest too, as in the paper.
    """

    def __init__(self, config: NetworkConfig, num_channels: int, num_outputs: int) -> None:
        super().__init__()
        levels, expansion = config.levels, config.expansion or 2

        def make_stage(level: Level) -> nn.Module:
            return nn.Sequential(
                *(
                    MedNeXtBlock(level.features, level.kernel_size, expansion)
                    for _ in range(level.blocks)
                )
            )

        pairs = list(itertools.pairwise(levels))
        self.stem = nn.Conv3d(num_channels, levels[0].features, 1)
        self.encoder = nn.ModuleList(map(make_stage, levels))
        self.downs = nn.ModuleList(
            MedNeXtDown(fine.features, coarse, expansion) for fine, coarse in pairs
        )
        self.ups = nn.ModuleList(
            MedNeXtUp(coarse, fine.features, expansion) for fine, coarse in pairs
        )
        self.decoder = nn.ModuleList(map(make_stage, levels[:-1]))
        supervised = levels if config.deep_supervision else levels[:1]
        self.heads = Heads([level.features for level in supervised], num_outputs)

    def forward(self, image_BCIJK: torch.Tensor) -> Logits:
        """Map images to logits; a list of them, the finest first, in supervised training."""
        encoded = [self.encoder[0](self.stem(image_BCIJK))]
        for down, stage in zip(self.downs, list(self.encoder)[1:], strict=True):
            encoded.append(stage(down(encoded[-1])))
        decoded = [encoded[-1]]
        for index in reversed(range(len(self.ups))):
            x = self.ups[index](decoded[0]) + encoded[index]
            decoded.insert(0, self.decoder[index](x))
        logits: Logits = self.heads(decoded[: len(self.heads)])
        return logits
