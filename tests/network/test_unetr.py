import pytest
import torch
from monai.networks.blocks import UnetrBasicBlock, UnetrPrUpBlock, UnetrUpBlock

from pipeline.network import NetworkConfig, build_network, count_parameters

PAPER = NetworkConfig(name="unetr", features=(16, 32, 64, 128, 768), blocks=(1, 3, 3, 3, 3))


def test_the_papers_network_has_its_parameters():
    """MONAI's convolutions, and the definition of the vision transformer; 92.5 M in the paper."""
    with torch.device("meta"):
        network = build_network(PAPER, 1, 14, (96, 96, 96))
        shape = {"spatial_dims": 3, "kernel_size": 3, "norm_name": "instance", "res_block": True}
        shape["norm_name"] = ("instance", {"affine": True})
        up = {"stride": 1, "upsample_kernel_size": 2, "conv_block": True}
        parts = [
            UnetrBasicBlock(in_channels=1, out_channels=16, stride=1, **shape),
            *(
                UnetrPrUpBlock(in_channels=768, out_channels=width, num_layer=n, **up, **shape)
                for width, n in ((32, 2), (64, 1), (128, 0))
            ),
            *(
                UnetrUpBlock(in_channels=coarse, out_channels=fine, upsample_kernel_size=2, **shape)
                for fine, coarse in ((128, 768), (64, 128), (32, 64), (16, 32))
            ),
        ]
    convolutions = sum(weight.numel() for part in parts for weight in part.parameters())
    block = 12 * 768**2 + (3 + 1 + 4 + 1) * 768 + 4 * 768
    transformer = 12 * block + 2 * 768 + 216 * 768
    embedding = 16**3 * 768 + 768
    heads = 14 * (16 + 1)
    assert count_parameters(network) == convolutions + transformer + embedding + heads
    assert count_parameters(network) == pytest.approx(92.5e6, rel=0.01)


def test_tokens_are_as_large_as_the_strides_say():
    config = NetworkConfig(
        name="unetr", features=(4, 4, 8), strides=((1, 1, 1), (2, 2, 1), (2, 2, 2))
    )
    network = build_network(config, 1, 2, (16, 8, 12))
    assert network.embed.kernel_size == (4, 4, 2)
    assert network.transformer.position.embedding_1CIJK.shape == (1, 8, 4, 2, 6)


def test_each_level_takes_a_state_of_its_own():
    """The first group feeds the finest of the skips, the last one the bottom."""
    config = NetworkConfig(name="unetr", features=(4, 4, 8, 8), blocks=(1, 2, 1, 3))
    network = build_network(config, 1, 2, (16, 16, 16)).eval()
    assert [len(group) for group in network.transformer.groups] == [2, 1, 3]
    seen = []
    network.decoder.register_forward_pre_hook(lambda _, args: seen.extend(args[0]))
    network(torch.randn(1, 1, 16, 16, 16))
    assert [tuple(x.shape[1:]) for x in seen] == [
        (4, 16, 16, 16),
        (4, 8, 8, 8),
        (8, 4, 4, 4),
        (8, 2, 2, 2),
    ]
