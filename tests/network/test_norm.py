import pytest
import torch
from torch import nn

from pipeline.network.blocks import InstanceNorm, _as_batch_norm

LAYOUTS = (torch.contiguous_format, torch.channels_last_3d)


def pair(num_channels, dtype=torch.float64):
    torch.manual_seed(0)
    ours = InstanceNorm(num_channels).to(dtype)
    for parameter in ours.parameters():
        nn.init.normal_(parameter)
    theirs = nn.InstanceNorm3d(num_channels, affine=True).to(dtype)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(4, 4, 8), (5, 7, 3), (1, 2, 1)])
def test_same_values_and_gradients_as_torch(layout, size):
    ours, theirs = pair(6)
    x = torch.randn(3, 6, *size, dtype=torch.float64).to(memory_format=layout) + 2
    inputs = [x.clone(memory_format=torch.preserve_format).requires_grad_() for _ in "ab"]
    outputs = [norm(given) for norm, given in zip((ours, theirs), inputs, strict=True)]
    gradient = torch.randn(x.shape, dtype=torch.float64)
    for output in outputs:
        output.backward(gradient)
    torch.testing.assert_close(outputs[0], outputs[1])
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)
    torch.testing.assert_close(ours.bias.grad, theirs.bias.grad)


def test_gradcheck_in_channels_last():
    norm, _ = pair(2)
    x = torch.randn(2, 2, 2, 3, 2, dtype=torch.float64).to(memory_format=torch.channels_last_3d)
    assert torch.autograd.gradcheck(norm, (x.requires_grad_(),))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_keeps_the_layout_both_ways(layout):
    norm, _ = pair(4, torch.float32)
    x = torch.randn(2, 4, 4, 4, 4).to(memory_format=layout).requires_grad_()
    y = norm(x)
    y.square().sum().backward()
    assert y.is_contiguous(memory_format=layout)
    assert x.grad.is_contiguous(memory_format=layout)


def test_bfloat16_loses_no_more_than_its_rounding():
    """A number in bfloat16 is off by up to 2^-9; a gradient made of a few by little more."""
    ours, theirs = pair(16)
    x = torch.randn(2, 16, 16, 16, 16).to(memory_format=torch.channels_last_3d)
    gradient = torch.randn(x.shape)

    def gradients(norm, dtype):
        given = x.to(dtype).requires_grad_()
        norm(given).backward(gradient.to(dtype))
        return given.grad.double(), norm.weight.grad.double(), norm.bias.grad.double()

    truth = gradients(theirs, torch.float64)
    for true, found in zip(truth, gradients(ours.float(), torch.bfloat16), strict=True):
        assert (found - true).norm() <= 2**-7 * true.norm()


def test_weights_are_named_as_torchs():
    assert InstanceNorm(3).state_dict().keys() == pair(3)[1].state_dict().keys()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_a_gpu_computes_is_the_same_function(layout):
    ours, theirs = pair(6)
    x = torch.randn(3, 6, 5, 7, 3, dtype=torch.float64).to(memory_format=layout) + 2
    inputs = [x.clone(memory_format=torch.preserve_format).requires_grad_() for _ in "ab"]
    outputs = _as_batch_norm(inputs[0], ours.weight, ours.bias, ours.eps), theirs(inputs[1])
    for output in outputs:
        output.square().sum().backward()
    torch.testing.assert_close(outputs[0], outputs[1])
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)
    torch.testing.assert_close(ours.bias.grad, theirs.bias.grad)


def test_half_precision_is_not_turned_into_float32_on_a_gpu():
    norm, _ = pair(4, torch.float32)
    x = torch.randn(2, 4, 4, 4, 4).bfloat16()
    found = _as_batch_norm(x, norm.weight, norm.bias, norm.eps)
    assert found.dtype == torch.bfloat16
    exact = _as_batch_norm(x.float(), norm.weight, norm.bias, norm.eps)
    torch.testing.assert_close(found.float(), exact, rtol=2**-7, atol=2**-7)
