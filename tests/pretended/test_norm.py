"""Instance normalisation takes its own way on a GPU."""

import torch

from pipeline.network.blocks import InstanceNorm


def test_same_values_as_on_the_cpu_without_waiting(gpu):
    norm, x = InstanceNorm(4), torch.randn(2, 4, 4, 4, 4)
    with torch.no_grad():
        expected = norm(x)
    norm, x = norm.to("cuda"), x.to("cuda").requires_grad_()
    gpu.waits.clear()
    found = norm(x)
    found.sum().backward()
    assert gpu.num_waits == 0
    torch.testing.assert_close(found.detach().cpu(), expected, rtol=1e-4, atol=1e-5)
