"""Each loss on the device, in float32: value and gradient of the CPU in float64."""

from typing import get_args

import pytest
import torch

from pipeline.losses import LossConfig, build_loss
from pipeline.losses.build import LossName
from pipeline.volume import IGNORE_INDEX

pytestmark = pytest.mark.gpu
SIZE = (12, 14, 10)
REGIONS = ((1, 2), (2,))


def value_and_gradients(loss, levels, target, annotated):
    leaves = [level.detach().clone().requires_grad_() for level in levels]
    value = loss(leaves if len(leaves) > 1 else leaves[0], target, annotated)
    value.backward()
    return value.detach().cpu(), [leaf.grad.cpu() for leaf in leaves]


@pytest.mark.parametrize("annotated", [None, [[True, True], [True, False]]])
@pytest.mark.parametrize("regions", [(), REGIONS], ids=["classes", "regions"])
@pytest.mark.parametrize("name", get_args(LossName))
def test_value_and_gradient_are_those_of_the_cpu(
    device, exact, name, regions, annotated, record_property
):
    generator = torch.Generator().manual_seed(0)
    num_outputs = len(regions) or 3
    sizes = [SIZE, [n // 2 for n in SIZE]]
    levels = [
        torch.randn(2, num_outputs, *size, generator=generator, dtype=torch.float64)
        for size in sizes
    ]
    target = torch.randint(0, 3, (2, *SIZE), generator=generator)
    target[0, :3] = IGNORE_INDEX
    known = None if annotated is None else torch.tensor(annotated)
    shares = (0.8, 0.15, 0.05)
    loss = build_loss(LossConfig(name=name), 3, regions=regions, shares=shares)
    expected, expected_gradients = value_and_gradients(loss, levels, target, known)
    on_device = [level.float().to(device) for level in levels]
    found, gradients = value_and_gradients(loss.to(device), on_device, target.to(device), known)
    record_property("loss_difference", float((found - expected).abs() / expected.abs().clamp(1)))
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
    largest = max(gradient.abs().max() for gradient in expected_gradients)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        assert (gradient.double() - expected_gradient).abs().max() <= 1e-3 * largest
