"""UNETR: the encoder is a transformer, whose states along the way are the skip connections.

Source:
    Hatamizadeh et al., UNETR, WACV 2022, doi:10.1109/WACV51458.2022.00181.
"""

import torch
from torch import nn

from pipeline.network.blocks import Upsample, initialise
from pipeline.network.config import Level, NetworkConfig, Size
from pipeline.network.decoder import Decoder, Logits
from pipeline.network.residual_unet import ResidualBlock
from pipeline.network.transformer import Transformer


class UNETR(nn.Module):
    """Blocks of voxels become tokens; their states are upsampled to each level of the decoder.

    The strides multiply to the size of a token, the deepest level's features are its channels, and
    `config.blocks` counts the transformer blocks before the state that each level takes, the
    finest level excepted, which sees the image through residual blocks. So features=(16, 32, 64,
    128, 768) and blocks=(1, 3, 3, 3, 3) give the paper's network, with tokens of 16^3 voxels, but
    24 attention heads of 32 features instead of 12 of 64.
    """

    def __init__(
        self, config: NetworkConfig, num_channels: int, num_outputs: int, patch_size: Size
    ) -> None:
        super().__init__()
        levels, dropout, divisors = config.levels, config.dropout, config.divisors
        hidden = levels[-1].features
        self.embed = nn.Conv3d(num_channels, hidden, divisors, divisors)
        i, j, k = (n // divisor for n, divisor in zip(patch_size, divisors, strict=True))
        groups = [level.blocks for level in levels[1:]]
        self.transformer = Transformer(hidden, (i, j, k), groups, dropout)

        def make_stage(num_in: int, level: Level) -> nn.Module:
            return ResidualBlock(num_in, level.features, level.kernel_size, (1, 1, 1), dropout)

        self.stem = nn.Sequential(
            *(
                make_stage(levels[0].features if n else num_channels, levels[0])
                for n in range(levels[0].blocks)
            )
        )
        self.climbs = nn.ModuleList(
            self._make_climb(config, index) for index in range(1, len(levels) - 1)
        )
        self.decoder = Decoder(config, num_outputs, make_stage)
        self.apply(initialise)

    @staticmethod
    def _make_climb(config: NetworkConfig, index: int) -> nn.Module:
        """Bring a state from the grid of tokens to a level, in steps of one stride."""
        levels = config.levels
        climb = nn.Sequential()
        num_in, num_out = levels[-1].features, levels[index].features
        for below, level in zip(levels[:index:-1], levels[-2 : index - 1 : -1], strict=True):
            climb.append(Upsample(num_in, num_out, below.stride, config.upsampling))
            num_in = num_out
            if level is not levels[-2]:
                climb.append(
                    ResidualBlock(num_out, num_out, level.kernel_size, (1, 1, 1), config.dropout)
                )
        return climb

    def forward(self, image_BCIJK: torch.Tensor) -> Logits:
        """Map images to logits; a list of them, the finest first, in supervised training."""
        states = self.transformer(self.embed(image_BCIJK))
        skips = [climb(state) for climb, state in zip(self.climbs, states[:-1], strict=True)]
        logits: Logits = self.decoder([self.stem(image_BCIJK), *skips, states[-1]])
        return logits
