"""U-Net++: nested U-Nets of every depth that share their encoder, densely connected.

Source:
    Zhou et al., UNet++, IEEE Transactions on Medical Imaging 39, 2020,
    doi:10.1109/TMI.2019.2959609.
"""

import itertools

import torch
from torch import nn

from pipeline.network.blocks import ConvStack, MaxPool, Upsample, initialise
from pipeline.network.config import Level, NetworkConfig
from pipeline.network.decoder import Heads, Logits


class UNetPlusPlus(nn.Module):
    """Node (i, j) joins all earlier nodes of level i and the node (i + 1, j - 1) below.

    The nodes (0, 1), (0, 2), ... are the ends of U-Nets of growing depth. Deep supervision puts a
    head on each of them, so all its logits have the size of the input; the deepest comes first and
    is the one that is used, without the average over heads of the paper's accurate mode. The loss
    weighs the heads as levels, halving from one to the next, where the paper weighs them alike.
    `config.blocks` counts the convolutions of a node at each level.
    """

    def __init__(self, config: NetworkConfig, num_channels: int, num_outputs: int) -> None:
        super().__init__()
        levels, dropout = config.levels, config.dropout

        def make_node(num_in: int, level: Level) -> nn.Module:
            return ConvStack(num_in, level.features, level.kernel_size, level.blocks, dropout)

        before = [num_channels, *config.features[:-1]]
        self.encoder = nn.ModuleList(map(make_node, before, levels))
        self.pools = nn.ModuleList(MaxPool(level.stride) for level in levels[1:])
        self.nodes = nn.ModuleDict()
        self.upsamples = nn.ModuleDict()
        for j in range(1, len(levels)):
            for i, (level, below) in enumerate(itertools.pairwise(levels[: len(levels) + 1 - j])):
                self.nodes[f"{i}_{j}"] = make_node((j + 1) * level.features, level)
                self.upsamples[f"{i}_{j}"] = Upsample(
                    below.features, level.features, below.stride, config.upsampling
                )
        num_heads = len(levels) - 1 if config.deep_supervision else 1
        self.heads = Heads([levels[0].features] * num_heads, num_outputs)
        self.apply(initialise)

    def forward(self, image_BCIJK: torch.Tensor) -> Logits:
        """Map images to logits; a list of them, the deepest first, in supervised training."""
        rows = [[self.encoder[0](image_BCIJK)]]
        for pool, stage in zip(self.pools, list(self.encoder)[1:], strict=True):
            rows.append([stage(pool(rows[-1][0]))])
        for j in range(1, len(rows)):
            for i, (row, below) in enumerate(itertools.pairwise(rows[: len(rows) + 1 - j])):
                upsampled = self.upsamples[f"{i}_{j}"](below[j - 1])
                row.append(self.nodes[f"{i}_{j}"](torch.cat((*row, upsampled), dim=1)))
        logits: Logits = self.heads(rows[0][: -len(self.heads) - 1 : -1])
        return logits
