"""SegNet: an encoder and a decoder that hand over where each maximum was, not the features.

Source:
    Badrinarayanan et al., SegNet, IEEE Transactions on Pattern Analysis and Machine Intelligence
    39, 2017, doi:10.1109/TPAMI.2016.2644615.
"""

import torch
from torch import nn
from torch.nn import functional

from pipeline.network.blocks import ConvStack, initialise
from pipeline.network.config import NetworkConfig


def unpool(x_BCIJK: torch.Tensor, indices_BCIJK: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """Put each value where max-pooling found its maximum, among zeros.

    As `torch.nn.MaxUnpool3d`, but in bfloat16 too, and reproducible on a GPU.

    Args:
        x_BCIJK: Values on the coarser grid.
        indices_BCIJK: What max-pooling returned.
        size: Shape of the result, (B, C, and the finer I, J, K).
    """
    zeros = x_BCIJK.new_zeros(size).flatten(2)
    return zeros.scatter(2, indices_BCIJK.flatten(2), x_BCIJK.flatten(2)).view(size)


class SegNet(nn.Module):
    """Convolutions and max-pooling down; unpooling and convolutions up; no skip connections.

    Instance normalisation replaces the batch normalisation of the original, as patches are few per
    batch. `config.blocks` counts the convolutions of each level, on both paths.
    """

    def __init__(self, config: NetworkConfig, num_channels: int, num_outputs: int) -> None:
        super().__init__()
        levels, dropout = config.levels, config.dropout
        above = [num_channels, *config.features[:-1]]
        self.strides = [level.stride for level in levels[1:]]
        self.encoder = nn.ModuleList(
            ConvStack(num_in, level.features, level.kernel_size, level.blocks, dropout)
            for num_in, level in zip(above, levels, strict=True)
        )
        # The last convolution of a level has the channels of the one above, whose maxima it fills.
        self.decoder = nn.ModuleList(
            nn.Sequential(
                ConvStack(
                    level.features, level.features, level.kernel_size, level.blocks - 1, dropout
                ),
                ConvStack(level.features, num_out, level.kernel_size, 1, dropout),
            )
            for num_out, level in zip([levels[0].features, *above[1:]], levels, strict=True)
        )
        self.head = nn.Conv3d(levels[0].features, num_outputs, 1)
        self.apply(initialise)

    def forward(self, image_BCIJK: torch.Tensor) -> torch.Tensor:
        """Map images to logits."""
        x = self.encoder[0](image_BCIJK)
        pooled = []
        for stride, stage in zip(self.strides, list(self.encoder)[1:], strict=True):
            size = x.shape
            x, indices = functional.max_pool3d(x, stride, return_indices=True)
            pooled.append((indices, size))
            x = stage(x)
        for stage, (indices, size) in zip(list(self.decoder)[:0:-1], reversed(pooled), strict=True):
            x = unpool(stage(x), indices, size)
        logits: torch.Tensor = self.head(self.decoder[0](x))
        return logits
