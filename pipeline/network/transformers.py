"""U-Nets with a vision transformer: UNETR and TransUNet, in 3D.

MONAI has such a transformer too, but needs einops for it, and its attention keeps a matrix of all
pairs.

Shapes: B batch, N tokens, C channels, I J K positions of the grid of tokens.

Source:
    Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021, doi:10.48550/arXiv.2010.11929.
    Hatamizadeh et al., UNETR, WACV 2022, doi:10.1109/WACV51458.2022.00181.
    Chen et al., TransUNet, Medical Image Analysis 97, 2024, doi:10.1016/j.media.2024.103280 (3D;
    the variant with a transformer in the encoder only).
"""

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import functional

from pipeline.network.blocks import ConvNormAct, ConvStack, Decoder, Logits, Upsample, initialise
from pipeline.network.config import Level, NetworkConfig, Size
from pipeline.network.unet import ResidualBlock, ResidualStage

HEAD_FEATURES = 32


def num_heads(features: int) -> int:
    """Return the attention heads for so many features: of about 32 each, all of one size."""
    return next(n for n in range(max(1, features // HEAD_FEATURES), 0, -1) if features % n == 0)


class PositionEmbedding(nn.Module):
    """A learned vector for each position of a grid, added to the tokens.

    On a grid of another size it is interpolated, so that a window may differ from the patches.
    """

    def __init__(self, features: int, grid: Size) -> None:
        super().__init__()
        # With an axis for the batch, as only such weights can be laid out channels-last.
        self.embedding_1CIJK = nn.Parameter(torch.empty(1, features, *grid))
        nn.init.trunc_normal_(self.embedding_1CIJK, std=0.02)

    def forward(self, tokens_BCIJK: torch.Tensor) -> torch.Tensor:
        """Add the embedding."""
        embedding_1CIJK: torch.Tensor = self.embedding_1CIJK
        if embedding_1CIJK.shape[2:] != tokens_BCIJK.shape[2:]:
            embedding_1CIJK = functional.interpolate(
                embedding_1CIJK, tokens_BCIJK.shape[2:], mode="trilinear"
            )
        return tokens_BCIJK + embedding_1CIJK


class TransformerBlock(nn.Module):
    """Self-attention, then two linear layers, each normalised before and added after."""

    def __init__(self, features: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads(features)
        self.norm1 = nn.LayerNorm(features)
        self.query_key_value = nn.Linear(features, 3 * features)
        self.project = nn.Linear(features, features)
        self.norm2 = nn.LayerNorm(features)
        self.mlp = nn.Sequential(
            nn.Linear(features, 4 * features),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(4 * features, features),
        )
        self.dropout = nn.Dropout(dropout)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, tokens_BNC: torch.Tensor) -> torch.Tensor:
        """Let every token see all others."""
        split = self.query_key_value(self.norm1(tokens_BNC)).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = split.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value)
        tokens_BNC = tokens_BNC + self.dropout(self.project(attended.transpose(1, 2).flatten(2)))
        tokens_BNC = tokens_BNC + self.dropout(self.mlp(self.norm2(tokens_BNC)))
        return tokens_BNC


class Transformer(nn.Module):
    """Position embedding and groups of transformer blocks, on a grid of tokens.

    Args:
        features: Channels of a token.
        grid: Positions along each axis in training.
        groups: Blocks of each group.
        dropout: Share of features left out.
    """

    def __init__(self, features: int, grid: Size, groups: Iterable[int], dropout: float) -> None:
        super().__init__()
        self.position = PositionEmbedding(features, grid)
        self.groups = nn.ModuleList(
            nn.Sequential(*(TransformerBlock(features, dropout) for _ in range(blocks)))
            for blocks in groups
        )
        self.norm = nn.LayerNorm(features)

    def forward(self, tokens_BCIJK: torch.Tensor) -> list[torch.Tensor]:
        """Return the grid of tokens after each group; the last one is normalised."""
        grid = tokens_BCIJK.shape[2:]
        tokens_BNC = self.position(tokens_BCIJK).flatten(2).transpose(1, 2)
        states = []
        for group in self.groups:
            tokens_BNC = group(tokens_BNC)
            states.append(tokens_BNC)
        states[-1] = self.norm(states[-1])
        return [state.transpose(1, 2).unflatten(2, grid) for state in states]


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
