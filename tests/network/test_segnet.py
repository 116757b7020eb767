import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.network import NetworkConfig, build_network, count_parameters
from pipeline.network.plain import unpool


@pytest.mark.parametrize("stride", [(2, 2, 2), (2, 2, 1), (1, 2, 1)])
def test_unpooling_is_that_of_torch(stride):
    x = torch.randn(2, 3, 4, 6, 5, requires_grad=True)
    x_other = x.detach().clone().requires_grad_()
    pool = nn.MaxPool3d(stride, return_indices=True)
    size = (4, 6, 5) if stride[2] == 1 else (4, 6, 4)
    pooled, indices = pool(x[..., : size[2]])
    found = unpool(2 * pooled, indices, torch.Size((2, 3, *size)))
    pooled_other, indices_other = pool(x_other[..., : size[2]])
    expected = functional.max_unpool3d(2 * pooled_other, indices_other, stride, output_size=size)
    assert torch.equal(found, expected)
    found.square().sum().backward()
    expected.square().sum().backward()
    assert torch.equal(x.grad, x_other.grad)


def test_unpooling_in_bfloat16():
    x = torch.randn(1, 2, 4, 4, 4).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        pooled, indices = functional.max_pool3d(x, 2, return_indices=True)
        found = unpool(pooled, indices, x.shape)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, torch.where(found != 0, x, 0))
    found.sum().backward()
    assert x.grad.sum() == pooled.numel()


def test_the_network_puts_features_where_the_maxima_were():
    network = build_network(NetworkConfig(name="segnet", features=(4, 8, 8)), 1, 2).eval()
    encoded, unpooled = [], []
    for stage in list(network.encoder)[:2]:
        stage.register_forward_hook(lambda *args: encoded.append(args[-1]))
    for stage in list(network.decoder)[:2]:
        stage.register_forward_pre_hook(lambda _, args: unpooled.insert(0, args[0]))
    with torch.inference_mode():
        network(torch.randn(1, 1, 8, 8, 8))
    for fine, sparse in zip(encoded, unpooled, strict=True):
        largest = functional.interpolate(functional.max_pool3d(fine, 2), scale_factor=2)
        assert torch.equal(sparse != 0, fine == largest)


def test_number_of_parameters():
    """The decoder mirrors the encoder, but begins each level with that level's own channels."""
    features, blocks = (4, 8, 16), (1, 2, 3)
    config = NetworkConfig(name="segnet", features=features, blocks=blocks)

    def conv(num_in, num_out):
        return 27 * num_in * num_out + 2 * num_out

    expected = 3 * (4 + 1)
    for before, width, depth in zip((2, *features), features, blocks, strict=False):
        expected += conv(before, width) + 2 * (depth - 1) * conv(width, width)
        expected += conv(width, before if width > 4 else 4)
    assert count_parameters(build_network(config, 2, 3)) == expected
