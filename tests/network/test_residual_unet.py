import itertools

import pytest
import torch
from torch.nn import functional

from pipeline.network import PRESETS, NetworkConfig, build_network, count_parameters
from pipeline.network.config import Level
from pipeline.network.unet import ResidualBlock, ResidualStage


def num_parameters(features, blocks, num_channels, num_outputs):
    """As nnU-Net's residual encoder, but without biases before normalisation."""

    def conv(num_in, num_out):
        return 27 * num_in * num_out + 2 * num_out

    total = conv(num_channels, features[0])
    for before, width, depth in zip((features[0], *features), features, blocks, strict=False):
        total += conv(before, width) + (2 * depth - 1) * conv(width, width)
        total += before * width + 2 * width if before != width else 0
    for fine, coarse in itertools.pairwise(features):
        total += 8 * fine * coarse + conv(2 * fine, fine)
    return total + num_outputs * (features[0] + 1)


@pytest.mark.parametrize("preset", PRESETS)
def test_number_of_parameters(preset):
    with torch.device("meta"):
        network = build_network(NetworkConfig(name="residual_unet", preset=preset), 1, 3)
    assert count_parameters(network) == num_parameters(*PRESETS[preset], 1, 3)


def test_default_is_the_small_preset():
    config = NetworkConfig(name="residual_unet")
    assert config.levels == NetworkConfig(name="residual_unet", preset="small").levels


def test_a_block_begins_as_its_shortcut():
    network = build_network(NetworkConfig(name="residual_unet", features=(4, 4, 8)), 1, 2)
    block = network.encoder[0][0]
    x = torch.randn(1, 4, 8, 8, 8)
    torch.testing.assert_close(block(x), functional.leaky_relu(x, 0.01))


def test_the_shortcut_averages():
    block = ResidualBlock(2, 2, (3, 3, 3), (2, 2, 1))
    torch.nn.init.zeros_(block.norm2.weight)
    x = torch.rand(1, 2, 4, 4, 3)
    expected = x.reshape(1, 2, 2, 2, 2, 2, 3).mean((3, 5))
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("num_in", [2, 3])
def test_a_convolution_in_the_shortcut_where_channels_change(num_in):
    assert len(ResidualBlock(num_in, 3, (3, 3, 3), (1, 1, 1)).shortcut) == (2 if num_in == 2 else 0)


def test_only_the_first_block_of_a_stage_strides():
    stage = ResidualStage(2, Level(4, (3, 3, 3), (2, 1, 2), 3), 0.0)
    assert [block.stride for block in stage] == [(2, 1, 2), (1, 1, 1), (1, 1, 1)]
