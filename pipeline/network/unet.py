"""The U-Net and those that differ from it in blocks or connections.

Source:
    Cicek et al., 3D U-Net, MICCAI 2016, doi:10.1007/978-3-319-46723-8_49; with instance
    normalisation, leaky ReLU, strided convolutions and deep supervision as in Isensee et al.,
    Nature Methods 18, 2021, doi:10.1038/s41592-020-01008-z.
    Residual encoder: Isensee et al., nnU-Net Revisited, MICCAI 2024,
    doi:10.1007/978-3-031-72114-4_47; blocks after He et al., CVPR 2016,
    doi:10.1109/CVPR.2016.90, with the average-pooled shortcut of He et al., Bag of Tricks,
    CVPR 2019, doi:10.1109/CVPR.2019.00065.
    Attention U-Net: Oktay et al., MIDL 2018, doi:10.48550/arXiv.1804.03999; Schlemper et al.,
    Medical Image Analysis 53, 2019, doi:10.1016/j.media.2019.01.012.
    U-Net++: Zhou et al., IEEE Transactions on Medical Imaging 39, 2020,
    doi:10.1109/TMI.2019.2959609.
"""

import itertools

import torch
from torch import nn
from torch.nn import functional

from pipeline.network.blocks import (
    LEAK,
    ConvNormAct,
    ConvStack,
    Decoder,
    Heads,
    Logits,
    MaxPool,
    Upsample,
    initialise,
    instance_norm,
    interpolate,
    same_padding,
)
from pipeline.network.config import Level, NetworkConfig, Size


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
