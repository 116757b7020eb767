import pytest
import torch
from torch.nn import functional

from pipeline.network.blocks import DepthwiseConv


@pytest.mark.parametrize("channels", [5, 16, 48])
@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 2, 1)])
def test_values_and_gradients_are_those_of_torch(channels, stride):
    conv = DepthwiseConv(channels, (3, 5, 1), stride)
    x = torch.randn(2, channels, 6, 8, 4, requires_grad=True)
    other, weight, bias = (t.detach().clone().requires_grad_() for t in (x, conv.weight, conv.bias))
    expected = functional.conv3d(other, weight, bias, stride, (1, 2, 0), groups=channels)
    found = conv(x)
    torch.testing.assert_close(found, expected)
    seed = torch.randn_like(found)
    found.backward(seed)
    expected.backward(seed)
    for mine, reference in ((x, other), (conv.weight, weight), (conv.bias, bias)):
        torch.testing.assert_close(mine.grad, reference.grad, rtol=1e-4, atol=1e-4)
    with torch.inference_mode():
        torch.testing.assert_close(conv(x.detach()), expected.detach())


def test_one_kernel_per_channel():
    assert DepthwiseConv(32, (3, 3, 3), bias=False).weight.shape == (32, 1, 3, 3, 3)
