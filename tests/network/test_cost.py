import pytest
import torch
from torch import nn

from pipeline.network import OPTIONS, NetworkConfig, build_network, count_parameters, gflops


def test_a_convolution_by_hand():
    conv = nn.Conv3d(2, 3, 3, padding=1, stride=2)
    assert count_parameters(conv) == 3 * 2 * 27 + 3
    assert gflops(conv, 2, (8, 6, 4)) == 2 * (4 * 3 * 2) * 3 * 2 * 27 / 1e9


def test_frozen_and_shared_weights():
    conv = nn.Conv3d(2, 2, 1, bias=False)
    assert count_parameters(nn.Sequential(conv, conv)) == 4
    assert count_parameters(conv.requires_grad_(requires_grad=False)) == 0


@pytest.mark.parametrize("name", OPTIONS)
def test_arithmetic_grows_with_the_window(name):
    network = build_network(NetworkConfig(name=name), 1, 2, (16, 16, 16)).train()
    small = gflops(network, 1, (16, 16, 16))
    assert gflops(network, 1, (32, 16, 16)) == pytest.approx(2 * small, rel=0.02)
    assert network.training
    assert all(weight.device == torch.device("cpu") for weight in network.parameters())


def test_no_memory_is_needed():
    network = build_network(NetworkConfig(), 1, 2)
    assert gflops(network, 1, (4096, 4096, 4096)) > 1e6
