"""Networks before the U-Net: FCN-8s and SegNet, in 3D.

Source:
    Long et al., Fully Convolutional Networks for Semantic Segmentation, CVPR 2015,
    doi:10.1109/CVPR.2015.7298965.
    Badrinarayanan et al., SegNet, IEEE Transactions on Pattern Analysis and Machine Intelligence
    39, 2017, doi:10.1109/TPAMI.2016.2644615.
"""

import torch
from torch import nn
from torch.nn import functional

from pipeline.network.blocks import ConvStack, MaxPool, Upsampling, initialise, interpolate
from pipeline.network.config import NetworkConfig, Size


class ScoreUpsample(nn.Module):
    """Upsampling of scores by `stride`: interpolation, or learned and interpolating at first."""

    def __init__(self, num_outputs: int, stride: Size, upsampling: Upsampling) -> None:
        super().__init__()
        self.stride = stride
        self.conv: nn.Module = nn.Identity()
        if upsampling == "transposed":
            i, j, k = (2 * n - n % 2 for n in stride)
            a, b, c = (n // 2 for n in stride)
            self.conv = nn.ConvTranspose3d(
                num_outputs, num_outputs, (i, j, k), stride, (a, b, c), bias=False
            )

    def initialise(self) -> None:
        """Make the learned upsampling begin as interpolation of each score by itself."""
        if isinstance(self.conv, nn.ConvTranspose3d):
            i, j, k = (
                _triangle(n, s) for n, s in zip(self.conv.kernel_size, self.stride, strict=True)
            )
            with torch.no_grad():
                self.conv.weight.zero_()
                self.conv.weight.diagonal().copy_(torch.einsum("i,j,k->ijk", i, j, k)[..., None])

    def forward(self, scores_BCIJK: torch.Tensor) -> torch.Tensor:
        """Multiply the size by the stride."""
        if isinstance(self.conv, nn.ConvTranspose3d):
            upsampled: torch.Tensor = self.conv(scores_BCIJK)
            return upsampled
        return interpolate(scores_BCIJK, self.stride)


def _triangle(size: int, stride: int) -> torch.Tensor:
    """Return the weights of linear interpolation."""
    return 1 - (torch.arange(size) - (size - 1) / 2).abs() / stride


class FCN(nn.Module):
    """A classifier's stages; the scores of the three coarsest are fused and brought to full size.

    The scores of the deepest level are upsampled and added to those of the level above, twice, as
    from FCN-32s to FCN-8s; what remains is interpolated. Leaky ReLU and instance normalisation
    replace the pretrained weights of the original. `config.blocks` counts the convolutions of each
    level.
    """

    def __init__(self, config: NetworkConfig, num_channels: int, num_outputs: int) -> None:
        super().__init__()
        levels = config.levels
        before = [num_channels, *config.features[:-1]]
        self.stages = nn.ModuleList(
            ConvStack(num_in, level.features, level.kernel_size, level.blocks, config.dropout)
            for num_in, level in zip(before, levels, strict=True)
        )
        self.pools = nn.ModuleList(MaxPool(level.stride) for level in levels[1:])
        self.scores = nn.ModuleList(
            nn.Conv3d(level.features, num_outputs, 1) for level in levels[-3:]
        )
        self.upsamples = nn.ModuleList(
            ScoreUpsample(num_outputs, level.stride, config.upsampling) for level in levels[-2:]
        )
        self.apply(initialise)
        for upsample in self.upsamples:
            assert isinstance(upsample, ScoreUpsample)
            upsample.initialise()

    def forward(self, image_BCIJK: torch.Tensor) -> torch.Tensor:
        """Map images to logits."""
        encoded = [self.stages[0](image_BCIJK)]
        for pool, stage in zip(self.pools, list(self.stages)[1:], strict=True):
            encoded.append(stage(pool(encoded[-1])))
        above, middle, deepest = (
            score(x) for score, x in zip(self.scores, encoded[-3:], strict=True)
        )
        fused: torch.Tensor = above + self.upsamples[0](middle + self.upsamples[1](deepest))
        if fused.shape[2:] == image_BCIJK.shape[2:]:
            return fused
        return functional.interpolate(fused, image_BCIJK.shape[2:], mode="trilinear")


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
