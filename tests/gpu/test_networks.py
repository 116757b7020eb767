"""Each network on the device: values and gradients of the CPU."""

import pytest
import torch

from pipeline.network import NetworkConfig, build_network
from pipeline.network.config import OPTIONS

pytestmark = pytest.mark.gpu
SIZE = (16, 16, 32)


def output_and_gradients(network, image, device):
    network = network.to(device)
    found = network(image.to(device))
    levels = [found] if isinstance(found, torch.Tensor) else found
    sum((level.square().mean() for level in levels), torch.zeros((), device=device)).backward()
    gradients = {name: p.grad.cpu().clone() for name, p in network.named_parameters()}
    network.zero_grad()
    return [level.detach().cpu() for level in levels], gradients


@pytest.mark.parametrize("name", OPTIONS)
def test_values_and_gradients_are_those_of_the_cpu(device, exact, name):
    torch.manual_seed(0)
    config = NetworkConfig(name=name, features=(8, 16, 16))
    # In double precision, which says how far single precision is off by itself.
    network = build_network(config, 2, 3, SIZE).double()
    image = torch.randn(2, 2, *SIZE, dtype=torch.float64)
    expected, expected_gradients = output_and_gradients(network, image, torch.device("cpu"))
    found, gradients = output_and_gradients(network.float(), image.float(), device)
    for level, expected_level in zip(found, expected, strict=True):
        torch.testing.assert_close(level.double(), expected_level, rtol=1e-3, atol=1e-3)
    largest = max(gradient.abs().max() for gradient in expected_gradients.values())
    for parameter, gradient in gradients.items():
        off = (gradient.double() - expected_gradients[parameter]).abs().max()
        assert off <= 1e-3 * largest, parameter


def test_channels_last_is_the_same(device, exact):
    torch.manual_seed(0)
    network = build_network(NetworkConfig(features=(8, 16, 16)), 1, 3).eval().to(device)
    image = torch.randn(2, 1, *SIZE, device=device)
    with torch.inference_mode():
        expected = network(image)
        network.to(memory_format=torch.channels_last_3d)
        found = network(image.to(memory_format=torch.channels_last_3d))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
