"""The 3D U-Net, from the blocks of MONAI's dynamic U-Net.

Source:
    Cicek et al., 3D U-Net, MICCAI 2016, doi:10.1007/978-3-319-46723-8_49; with instance
    normalisation, leaky ReLU, strided convolutions and deep supervision as in Isensee et al.,
    Nature Methods 18, 2021, doi:10.1038/s41592-020-01008-z.
"""

import itertools

import torch
from torch import nn

from pipeline.network.blocks import LEAK, Upsample, initialise, instance_norm
from pipeline.network.config import NetworkConfig
from pipeline.network.decoder import Heads, Logits


class UNet(nn.Module):
    """Two convolutions per level, down by strides and up again, with skip connections.

    The weights have the names that `DynUNet` gives them. `DynUNet` itself will not do: going up, it
    takes each level's kernel from the level below; its dropout leaves out logits; and it brings all
    supervised logits to the finest resolution.
    """

    def __init__(self, config: NetworkConfig, num_channels: int, num_outputs: int) -> None:
        from monai.networks.blocks.dynunet_block import UnetBasicBlock, UnetOutBlock, UnetUpBlock

        super().__init__()
        levels, features = config.levels, config.features
        common = {
            "norm_name": ("instance", {"affine": True}),
            "act_name": ("leakyrelu", {"inplace": True, "negative_slope": LEAK}),
            "dropout": config.dropout or None,
        }
        down = [
            UnetBasicBlock(3, num_in, level.features, level.kernel_size, level.stride, **common)
            for num_in, level in zip([num_channels, *features[:-1]], levels, strict=True)
        ]
        self.input_block: nn.Module = down[0]
        self.downsamples = nn.ModuleList(down[1:-1])
        self.bottleneck: nn.Module = down[-1]
        pairs = list(itertools.pairwise(levels))[::-1]
        self.upsamples = nn.ModuleList(
            UnetUpBlock(
                3,
                coarse.features,
                fine.features,
                kernel_size=fine.kernel_size,
                stride=1,
                upsample_kernel_size=coarse.stride,
                **common,
            )
            for fine, coarse in pairs
        )
        self.output_block: nn.Module = UnetOutBlock(3, features[0], num_outputs)
        if config.upsampling == "linear":
            for block, (fine, coarse) in zip(self.upsamples, pairs, strict=True):
                block.transp_conv = Upsample(
                    coarse.features, fine.features, coarse.stride, "linear"
                )
        self.coarse_heads = Heads(features[1:-1] if config.deep_supervision else (), num_outputs)
        self.apply(initialise)
        _replace_norms(self)

    def forward(self, image_BCIJK: torch.Tensor) -> Logits:
        """Map images to logits; a list of them, the finest first, in supervised training."""
        x = self.input_block(image_BCIJK)
        skips = [x]
        for block in self.downsamples:
            x = block(x)
            skips.append(x)
        x = self.bottleneck(x)
        decoded: list[torch.Tensor] = []
        for block, skip in zip(self.upsamples, reversed(skips), strict=True):
            x = block(x, skip)
            decoded.insert(0, x)
        logits: torch.Tensor = self.output_block(x)
        if self.training and len(self.coarse_heads):
            coarse = zip(self.coarse_heads, decoded[1:], strict=True)
            return [logits, *(head(features) for head, features in coarse)]
        return logits


def _replace_norms(module: nn.Module) -> None:
    """Put the common normalisation in the place of MONAI's; the weights keep their names."""
    for name, child in module.named_children():
        if isinstance(child, nn.InstanceNorm3d):
            setattr(module, name, instance_norm(child.num_features))
        else:
            _replace_norms(child)
