"""The field against mean field by brute force, on a crop of a CT-like problem."""

import numpy as np
import pytest
import torch

from benchmarks.crf_cases import make_abdomen
from pipeline.postprocessing.crf import CrfConfig
from pipeline.postprocessing.crf.band import LEAST_PROBABILITY, band_of_probabilities
from pipeline.postprocessing.crf.kernels import choose_kernels
from pipeline.postprocessing.crf.problem import Limits, Problem, infer_band

CROP = (slice(44, 76), slice(78, 110), slice(36, 60))
CONFIG = CrfConfig(
    theta_position_mm=5.0,
    theta_intensity=20.0,
    weight_appearance=10.0,
    theta_smoothness_mm=2.0,
    weight_smoothness=2.0,
)
CPU = torch.device("cpu")
AT_ONCE = 512


@pytest.fixture(scope="module")
def crop():
    """Return the crop's image and probabilities, and the exact probabilities afterwards."""
    problem = make_abdomen()
    image_IJK = torch.from_numpy(problem.image_IJK[CROP].copy())
    shares_CIJK = torch.from_numpy(problem.probability_CIJK[(slice(None), *CROP)].copy())
    return image_IJK, shares_CIJK, solve_exactly(image_IJK, shares_CIJK)


def solve_exactly(image_IJK, shares_CIJK):
    """Sum over all pairs of voxels: Krähenbühl and Koltun, equation 2 to 5, rows normalised."""
    axes = [torch.arange(size, dtype=torch.float32) for size in image_IJK.shape]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).view(-1, 3)
    looks = image_IJK.view(-1, 1) / CONFIG.theta_intensity
    feature = torch.cat([places / CONFIG.theta_position_mm, looks], dim=1)
    unary_NC = shares_CIJK.view(len(shares_CIJK), -1).T.clamp_min(LEAST_PROBABILITY).log()
    share_NC = unary_NC.softmax(dim=1)
    for _ in range(CONFIG.iterations):
        message_NC = CONFIG.weight_appearance * mean_around(feature, share_NC)
        message_NC += CONFIG.weight_smoothness * mean_near(axes, share_NC)
        share_NC = (unary_NC + message_NC).softmax(dim=1)
    return share_NC


def mean_around(feature, share_NC):
    """Weigh all voxels by a Gaussian of their features."""
    means = []
    for part in torch.split(feature, AT_ONCE):
        kernel = torch.cdist(part, feature).square_().mul_(-0.5).exp_()
        means.append(kernel @ share_NC / kernel.sum(dim=1, keepdim=True))
    return torch.cat(means)


def mean_near(axes, share_NC):
    """Weigh all voxels by a Gaussian of their distance, which is one along each axis in turn."""
    means = share_NC.view(*map(len, axes), -1)
    for axis, places in enumerate(axes):
        steps = (places[:, None] - places) / CONFIG.theta_smoothness_mm
        kernel = torch.exp(-0.5 * steps**2)
        kernel /= kernel.sum(dim=1, keepdim=True)
        means = torch.tensordot(kernel, means, dims=([1], [axis])).movedim(0, axis)
    return means.reshape(share_NC.shape)


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_the_field_is_close_to_the_exact_one(crop, backend):
    image_IJK, shares_CIJK, exact_NC = crop
    band, class_IJK = band_of_probabilities(shares_CIJK)
    before_N = class_IJK.view(-1).long()
    problem = Problem(image_IJK[None], band, class_IJK.clone(), 5, (1.0, 1.0, 1.0))
    kernels = choose_kernels(backend, CPU, torch.float32)
    band, share_NS = infer_band(problem, CONFIG, kernels, Limits(10**10, 1.0))
    voxel_N = band.voxel_N.long()
    found_N = before_N.clone()
    found_N[voxel_N] = band.most_probable(share_NS).long()
    exact_N = exact_NC.argmax(dim=1)
    changed_N = (found_N != before_N) | (exact_N != before_N)
    assert changed_N.sum() > 250
    assert (found_N == exact_N)[changed_N].float().mean() >= 0.98
    # The voxels outside the band are taken for certain.
    after_NC = torch.nn.functional.one_hot(before_N, 5).float()
    after_NC[voxel_N, 1:] = share_NS[:, :4]
    after_NC[voxel_N, 0] = 1 - share_NS.sum(dim=1)
    assert (after_NC - exact_NC).abs().mean() <= 1e-4
    assert np.isclose(after_NC.sum(dim=1).numpy(), 1, atol=1e-5).all()
