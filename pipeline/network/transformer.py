"""A vision transformer on a grid of tokens.

MONAI has one too, but needs einops for it, and its attention keeps a matrix of all pairs.

Source:
    Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021, doi:10.48550/arXiv.2010.11929.

Shapes: B batch, N tokens, C channels, I J K positions of the grid of tokens.
"""

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import functional

from pipeline.network.config import Size

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
