"""A light U-Net of depthwise-separable convolutions, with well under a million parameters.

Source:
    Howard et al., MobileNets, 2017, doi:10.48550/arXiv.1704.04861, for the convolutions; Cicek et
    al., 3D U-Net, MICCAI 2016, doi:10.1007/978-3-319-46723-8_49, for the rest.
"""

import torch
from torch import nn

from pipeline.network.blocks import LEAK, ConvNormAct, initialise, instance_norm
from pipeline.network.config import Level, NetworkConfig, Size
from pipeline.network.decoder import Decoder, Logits
from pipeline.network.depthwise import DepthwiseConv


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
