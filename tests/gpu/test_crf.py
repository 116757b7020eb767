"""The conditional random field on the device: the CPU's labels; as a layer, its gradients."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from pipeline.postprocessing.crf import Crf, CrfConfig
from pipeline.postprocessing.crf.layer import CrfLayer

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")
SPACING_MM = (2.0, 2.0, 3.0)


def soft_labels(labels_IJK):
    """Probabilities of a network that sees the labels blurred and a little aside."""
    num_classes = int(labels_IJK.max()) + 1
    seen = ndimage.shift(labels_IJK, (1.3, -1.2, 0.8), order=0)
    soft = [ndimage.gaussian_filter((seen == c) * 1.0, 1.2) for c in range(num_classes)]
    shares = np.exp(6 * np.stack(soft))
    return (shares / shares.sum(axis=0)).astype(np.float32)


@pytest.fixture(scope="module")
def problem(scan):
    box = (slice(0, 1), *(slice(n // 6, n // 2) for n in scan.labels_IJK.shape))
    return scan.data_CIJK[box].astype(np.float32), soft_labels(scan.labels_IJK[box[1:]])


@pytest.mark.parametrize("normalisation", ["row", "symmetric"])
def test_refined_labels_are_those_of_the_cpu(device, problem, normalisation, record_property):
    image, shares = problem
    config = CrfConfig(normalisation=normalisation)
    plain = shares.argmax(axis=0)
    expected = Crf(config, CPU).refine_probabilities(image, shares, SPACING_MM)
    found = Crf(config, device).refine_probabilities(image, shares, SPACING_MM)
    foreground = (expected != 0) | (found != 0)
    change = float(np.mean((expected != found)[foreground]))
    record_property("crf_change", change)
    assert change <= 1e-3
    assert np.mean((expected != plain)[foreground]) > 10 * change, "it refines"


def test_a_hard_mask_is_refined_as_on_the_cpu(device, problem):
    image, shares = problem
    labels = shares.argmax(axis=0).astype(np.uint8)
    expected = Crf(CrfConfig(), CPU).refine_labels(image, labels, SPACING_MM)
    found = Crf(CrfConfig(), device).refine_labels(image, labels, SPACING_MM)
    foreground = (expected != 0) | (found != 0)
    assert np.mean((expected != found)[foreground]) <= 1e-3


def test_as_a_layer_it_has_the_logits_and_gradients_of_the_cpu(device, exact):
    torch.manual_seed(0)
    image = torch.randn(2, 1, 12, 10, 8)
    logits = 2 * torch.randn(2, 3, 12, 10, 8)
    config = CrfConfig(theta_position_mm=6, theta_smoothness_mm=4, iterations=2)
    results = []
    for place in (CPU, device):
        layer = CrfLayer(config, 3, SPACING_MM, backend="torch").to(place)
        leaf = logits.clone().to(place).requires_grad_()
        refined = layer(image.to(place), leaf)
        refined.square().mean().backward()
        weights = [p.grad.cpu() for p in layer.parameters() if p.grad is not None]
        results.append([refined.detach().cpu(), leaf.grad.cpu(), *weights])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
