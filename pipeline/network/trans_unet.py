"""TransUNet in 3D: a convolutional encoder, a transformer at the bottom, a U-Net's decoder.

Source:
    Chen et al., TransUNet, Medical Image Analysis 97, 2024, doi:10.1016/j.media.2024.103280 (3D;
    the variant with a transformer in the encoder only).
"""

import torch
from torch import nn

from pipeline.network.blocks import ConvNormAct, ConvStack, initialise
from pipeline.network.config import Level, NetworkConfig, Size
from pipeline.network.decoder import Decoder, Logits
from pipeline.network.residual_unet import ResidualStage
from pipeline.network.transformer import Transformer


class TransUNet(nn.Module):
    """Residual blocks down to the level above the deepest, whose voxels become tokens.

    `config.blocks` counts the residual blocks of each level, and at the deepest the transformer
    blocks; on the way up each level has as many convolutions as residual blocks on the way down.
    """

    def __init__(
        self, config: NetworkConfig, num_channels: int, num_outputs: int, patch_size: Size
    ) -> None:
        super().__init__()
        levels, dropout = config.levels, config.dropout
        deepest = levels[-1]
        before = [num_channels, *config.features[:-2]]
        self.encoder = nn.ModuleList(
            ResidualStage(num_in, level, dropout)
            for num_in, level in zip(before, levels[:-1], strict=True)
        )
        self.embed = nn.Conv3d(
            levels[-2].features, deepest.features, deepest.stride, deepest.stride
        )
        i, j, k = (n // divisor for n, divisor in zip(patch_size, config.divisors, strict=True))
        self.transformer = Transformer(deepest.features, (i, j, k), [deepest.blocks], dropout)
        self.bottleneck = ConvNormAct(
            deepest.features, deepest.features, deepest.kernel_size, dropout=dropout
        )

        def make_stage(num_in: int, level: Level) -> nn.Module:
            return ConvStack(num_in, level.features, level.kernel_size, level.blocks, dropout)

        self.decoder = Decoder(config, num_outputs, make_stage)
        self.apply(initialise)

    def forward(self, image_BCIJK: torch.Tensor) -> Logits:
        """Map images to logits; a list of them, the finest first, in supervised training."""
        x = image_BCIJK
        encoded = []
        for stage in self.encoder:
            x = stage(x)
            encoded.append(x)
        tokens = self.transformer(self.embed(x))[-1]
        logits: Logits = self.decoder([*encoded, self.bottleneck(tokens)])
        return logits
