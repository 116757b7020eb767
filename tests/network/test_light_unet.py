import itertools

import torch

from pipeline.network import NetworkConfig, build_network, count_parameters
from pipeline.network.depthwise_unets import SeparableConv


def test_it_is_light():
    assert count_parameters(build_network(NetworkConfig(name="light_unet"), 1, 3)) < 1_000_000
    features = (32, 64, 128, 256, 320)
    deep = build_network(NetworkConfig(name="light_unet", features=features), 1, 3)
    heavy = build_network(NetworkConfig(features=features), 1, 3)
    assert count_parameters(deep) < count_parameters(heavy) / 9


def test_number_of_parameters():
    features, blocks = (4, 8, 16), (1, 2, 3)
    config = NetworkConfig(name="light_unet", features=features, blocks=blocks)

    def separable(num_in, num_out):
        return 27 * num_in + 2 * num_in + num_in * num_out + 2 * num_out

    def stage(num_in, width, depth):
        return separable(num_in, width) + (depth - 1) * separable(width, width)

    expected = 27 * 2 * 4 + 2 * 4 + 3 * (4 + 1)
    for before, width, depth in zip((4, *features), features, blocks, strict=False):
        expected += stage(before, width, depth)
    for (fine, coarse), depth in zip(itertools.pairwise(features), blocks, strict=False):
        expected += 8 * fine * coarse + stage(2 * fine, fine, depth)
    assert count_parameters(build_network(config, 2, 3)) == expected


def test_space_and_channels_are_mixed_apart():
    conv = SeparableConv(4, 6, (3, 3, 1), (2, 2, 1), 0.0)
    assert conv[0].weight.shape == (4, 1, 3, 3, 1)
    assert conv[3][0].weight.shape == (6, 4, 1, 1, 1)
    assert conv(torch.randn(1, 4, 8, 8, 5)).shape == (1, 6, 4, 4, 5)
