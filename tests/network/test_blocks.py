import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.network.blocks import (
    ConvNormAct,
    ConvStack,
    MaxPool,
    Upsample,
    initialise,
    instance_norm,
    interpolate,
    same_padding,
)


def test_instance_norm_is_per_case_and_channel():
    x = 5 * torch.randn(2, 3, 4, 5, 6) + 7
    norm = instance_norm(3)
    expected = (x - x.mean((2, 3, 4), keepdim=True)) / x.std((2, 3, 4), keepdim=True, correction=0)
    torch.testing.assert_close(norm(x), expected, rtol=1e-4, atol=1e-4)
    assert {key: tuple(weight.shape) for key, weight in norm.named_parameters()} == {
        "weight": (3,),
        "bias": (3,),
    }


@pytest.mark.parametrize("kernel_size", [(1, 3, 5), (3, 3, 3), (7, 1, 1)])
def test_odd_kernels_keep_the_size_or_divide_it(kernel_size):
    x = torch.randn(1, 2, 8, 6, 4)
    assert ConvNormAct(2, 3, kernel_size)(x).shape == (1, 3, 8, 6, 4)
    assert ConvNormAct(2, 3, kernel_size, (2, 2, 1))(x).shape == (1, 3, 4, 3, 4)


def test_convolution_then_normalisation_then_leaky_relu():
    block = ConvNormAct(2, 3, (3, 3, 3))
    x = torch.randn(1, 2, 4, 4, 4)
    normalised = functional.instance_norm(functional.conv3d(x, block[0].weight, padding=1))
    torch.testing.assert_close(block(x), torch.where(normalised > 0, normalised, normalised / 100))


def test_a_stack_counts_its_blocks():
    stack = ConvStack(2, 3, (3, 3, 3), 3, 0.5)
    assert [block[0].in_channels for block in stack] == [2, 3, 3]
    assert all(isinstance(block[1], nn.Dropout) for block in stack)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_max_pool(dtype):
    x = torch.randn(1, 2, 4, 6, 3).to(dtype)
    pooled = MaxPool((2, 2, 1))(x)
    assert pooled.dtype == dtype
    assert torch.equal(pooled, functional.max_pool3d(x.float(), (2, 2, 1)).to(dtype))


@pytest.mark.parametrize("upsampling", ["transposed", "linear"])
def test_upsample_multiplies_the_size(upsampling):
    x = torch.randn(1, 4, 2, 3, 5)
    assert Upsample(4, 3, (2, 2, 1), upsampling)(x).shape == (1, 3, 4, 6, 5)


def test_linear_upsampling_interpolates_first_or_last():
    upsample = Upsample(4, 3, (2, 1, 2), "linear")
    x = torch.randn(1, 4, 3, 3, 3)
    large = functional.interpolate(x, scale_factor=(2, 1, 2), mode="trilinear")
    expected = functional.conv3d(large, upsample.conv.weight)
    torch.testing.assert_close(upsample(x), expected)


def test_interpolation_of_a_ramp_is_a_ramp():
    ramp = torch.arange(4.0)[None, None, :, None, None].expand(1, 1, 4, 2, 2)
    found = interpolate(ramp, (2, 1, 1))[0, 0, 1:-1, 0, 0]
    torch.testing.assert_close(found, torch.linspace(0.25, 2.75, 6))
    assert interpolate(ramp, (1, 1, 1)) is ramp


def test_initial_weights_keep_the_variance():
    conv = nn.Conv3d(64, 64, 3)
    conv.apply(initialise)
    assert conv.weight.var().item() == pytest.approx(2 / (64 * 27), rel=0.02)
    assert not conv.bias.any()


def test_same_padding():
    assert same_padding((1, 3, 7)) == (0, 1, 3)
