"""The Attention U-Net: what a skip connection passes on is weighted by what lies below.

Source:
    Oktay et al., Attention U-Net, MIDL 2018, doi:10.48550/arXiv.1804.03999; Schlemper et al.,
    Medical Image Analysis 53, 2019, doi:10.1016/j.media.2019.01.012.
"""

import torch
from torch import nn
from torch.nn import functional

from pipeline.network.blocks import ConvStack, MaxPool, initialise, instance_norm, interpolate
from pipeline.network.config import Level, NetworkConfig
from pipeline.network.decoder import Decoder, Logits


class AttentionGate(nn.Module):
    """Additive attention: weights between 0 and 1 per voxel, from the skip and the level below.

    The skip's features are brought to the coarser grid, where both are added, and the weights back
    to the finer one, so that a gate costs little.
    """

    def __init__(self, fine: Level, coarse: Level) -> None:
        super().__init__()
        self.stride = coarse.stride
        num_features, stride = fine.features, coarse.stride
        self.theta = nn.Conv3d(num_features, num_features, stride, stride, bias=False)
        self.phi = nn.Conv3d(coarse.features, num_features, 1)
        self.psi = nn.Conv3d(num_features, 1, 1)
        self.out = nn.Sequential(
            nn.Conv3d(num_features, num_features, 1, bias=False), instance_norm(num_features)
        )

    def weights(self, skip_BCIJK: torch.Tensor, below_BCIJK: torch.Tensor) -> torch.Tensor:
        """Return the attention, shape (B, 1, I, J, K), between 0 and 1."""
        added = functional.relu(self.theta(skip_BCIJK) + self.phi(below_BCIJK))
        return interpolate(torch.sigmoid(self.psi(added)), self.stride)

    def forward(self, skip_BCIJK: torch.Tensor, below_BCIJK: torch.Tensor) -> torch.Tensor:
        """Weight the skip's features by the attention."""
        gated: torch.Tensor = self.out(skip_BCIJK * self.weights(skip_BCIJK, below_BCIJK))
        return gated


class AttentionUNet(nn.Module):
    """A U-Net with max-pooling and an attention gate in every skip connection.

    The paper gates all skips but the finest; here the finest has a gate too, as in MONAI.
    `config.blocks` counts the convolutions of each level, on both paths.
    """

    def __init__(self, config: NetworkConfig, num_channels: int, num_outputs: int) -> None:
        super().__init__()
        levels, dropout = config.levels, config.dropout

        def make_stage(num_in: int, level: Level) -> nn.Module:
            return ConvStack(num_in, level.features, level.kernel_size, level.blocks, dropout)

        before = [num_channels, *config.features[:-1]]
        self.encoder = nn.ModuleList(map(make_stage, before, levels))
        self.pools = nn.ModuleList(MaxPool(level.stride) for level in levels[1:])
        self.decoder = Decoder(config, num_outputs, make_stage, AttentionGate)
        self.apply(initialise)

    def forward(self, image_BCIJK: torch.Tensor) -> Logits:
        """Map images to logits; a list of them, the finest first, in supervised training."""
        encoded = [self.encoder[0](image_BCIJK)]
        for pool, stage in zip(self.pools, list(self.encoder)[1:], strict=True):
            encoded.append(stage(pool(encoded[-1])))
        logits: Logits = self.decoder(encoded)
        return logits
