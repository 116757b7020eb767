"""The pretended GPU itself: true values, and every kind of waiting counted."""

import pytest
import torch
from torch.nn import functional


@pytest.mark.parametrize(
    ("what", "do"),
    [
        ("_local_scalar_dense", lambda x: x.sum().item()),
        ("_local_scalar_dense", lambda x: float(x.sum())),
        ("_local_scalar_dense", lambda x: bool(x.any())),
        ("_local_scalar_dense", lambda x: x[x[0].long()]),
        ("equal", lambda x: torch.equal(x, x)),
        ("nonzero", lambda x: x.nonzero()),
        ("boolean indexing", lambda x: x[x > 1]),
        ("copy to the device", lambda x: x[[0, 1]]),
        ("copy to the host", lambda x: x.cpu()),
        ("copy to the host", lambda x: torch.zeros(3).copy_(x)),
        ("copy to the device", lambda x: torch.zeros(3).to(x.device)),
        ("copy to the device", lambda x: x.copy_(torch.zeros(3))),
        ("copy of pageable memory", lambda x: torch.zeros(99999).to("cuda", non_blocking=True)),
        ("synchronize", lambda _: torch.cuda.synchronize()),
        ("synchronize", lambda _: torch.cuda.Event().synchronize()),
    ],
)
def test_what_makes_the_host_wait_is_counted_once(gpu, what, do):
    x = torch.tensor([1.0, 2.0, 3.0], device="cuda")
    gpu.waits.clear()
    do(x)
    assert gpu.num_waits == 1
    assert next(iter(gpu.waits)).startswith(f"{what} at")


@pytest.mark.parametrize(
    "do",
    [
        lambda x: x * 2 + x.sum(),
        lambda x: x[1:].clone(),
        lambda x: torch.where(x > 1, x, 0),
        lambda x: x.masked_fill_(x > 1, 0),
        lambda x: torch.zeros(99999).pin_memory().to("cuda", non_blocking=True),
        lambda x: x.to("cpu", non_blocking=True),
        lambda x: torch.cuda.Event().record(),
    ],
)
def test_what_does_not_is_not(gpu, do):
    x = torch.tensor([1.0, 2.0, 3.0], device="cuda")
    gpu.waits.clear()
    do(x)
    assert gpu.num_waits == 0, gpu.waits


def test_values_gradients_and_devices_are_those_of_a_gpu(gpu):
    torch.manual_seed(0)
    network = torch.nn.Conv3d(1, 2, 3)
    weight = network.weight.detach().clone()
    image = torch.randn(1, 1, 5, 5, 5)
    expected = functional.conv3d(image, weight, network.bias.detach()).square().sum()
    network.to("cuda")
    assert network.weight.is_cuda
    loss = network(image.to("cuda")).square().sum()
    loss.backward()
    assert loss.is_cuda
    assert network.weight.grad.is_cuda
    torch.testing.assert_close(loss.detach().cpu(), expected)
    with pytest.raises(TypeError, match="cuda"):
        loss.detach().numpy()
