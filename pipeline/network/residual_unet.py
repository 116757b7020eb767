"""The U-Net with a residual encoder.

Source:
    Isensee et al., nnU-Net Revisited, MICCAI 2024, doi:10.1007/978-3-031-72114-4_47; blocks after
    He et al., CVPR 2016, doi:10.1109/CVPR.2016.90, with the average-pooled shortcut of He et al.,
    Bag of Tricks, CVPR 2019, doi:10.1109/CVPR.2019.00065.
"""

import torch
from torch import nn
from torch.nn import functional

from pipeline.network.blocks import LEAK, ConvNormAct, initialise, instance_norm, same_padding
from pipeline.network.config import Level, NetworkConfig, Size
from pipeline.network.decoder import Decoder, Logits


class ResidualBlock(nn.Module):
    """Two convolutions whose result is added to the input.

    The shortcut averages where the block has a stride, and has a 1x1x1 convolution where the number
    of channels changes.
    """

    def __init__(
        self, num_in: int, num_out: int, kernel_size: Size, stride: Size, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = ConvNormAct(num_in, num_out, kernel_size, stride, dropout)
        padding = same_padding(kernel_size)
        self.conv2 = nn.Conv3d(num_out, num_out, kernel_size, padding=padding, bias=False)
        self.norm2 = instance_norm(num_out)
        self.shortcut = nn.Sequential()
        if num_in != num_out:
            self.shortcut.append(nn.Conv3d(num_in, num_out, 1, bias=False))
            self.shortcut.append(instance_norm(num_out))
        self.act = nn.LeakyReLU(LEAK, inplace=True)

    def forward(self, x_BCIJK: torch.Tensor) -> torch.Tensor:
        """Divide the size by the stride and set the number of channels."""
        shortcut = x_BCIJK
        if max(self.stride) > 1:
            # Autocast averages in float32; the sum below needs no more than its other part has.
            shortcut = functional.avg_pool3d(shortcut, self.stride).to(x_BCIJK.dtype)
        result: torch.Tensor = self.norm2(self.conv2(self.conv1(x_BCIJK)))
        result = self.act(result + self.shortcut(shortcut))
        return result


class ResidualStage(nn.Sequential):
    """The residual blocks of one level; the first has its stride."""

    def __init__(self, num_in: int, level: Level, dropout: float) -> None:
        features, kernel_size, stride, blocks = level
        super().__init__(
            ResidualBlock(num_in, features, kernel_size, stride, dropout),
            *(
                ResidualBlock(features, features, kernel_size, (1, 1, 1), dropout)
                for _ in range(blocks - 1)
            ),
        )


class ResidualUNet(nn.Module):
    """A convolution, levels of residual blocks, and an expanding path of one convolution a level.

    `config.blocks` counts the residual blocks of each level of the encoder.
    """

    def __init__(self, config: NetworkConfig, num_channels: int, num_outputs: int) -> None:
        super().__init__()
        levels, dropout = config.levels, config.dropout
        self.stem = ConvNormAct(
            num_channels, levels[0].features, levels[0].kernel_size, dropout=dropout
        )
        before = [levels[0].features, *config.features[:-1]]
        self.encoder = nn.ModuleList(
            ResidualStage(num_in, level, dropout)
            for num_in, level in zip(before, levels, strict=True)
        )

        def make_stage(num_in: int, level: Level) -> nn.Module:
            return ConvNormAct(num_in, level.features, level.kernel_size, dropout=dropout)

        self.decoder = Decoder(config, num_outputs, make_stage)
        self.apply(initialise)
        for block in self.modules():
            if isinstance(block, ResidualBlock):
                # Each block begins as its shortcut, so that depth does not hamper the start.
                nn.init.zeros_(block.norm2.get_parameter("weight"))

    def forward(self, image_BCIJK: torch.Tensor) -> Logits:
        """Map images to logits; a list of them, the finest first, in supervised training."""
        x = self.stem(image_BCIJK)
        encoded = []
        for stage in self.encoder:
            x = stage(x)
            encoded.append(x)
        logits: Logits = self.decoder(encoded)
        return logits
