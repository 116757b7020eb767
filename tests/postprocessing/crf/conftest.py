"""A small problem of the conditional random field, and its exact solution."""

from functools import cache

import numpy as np
import pytest
import torch
from scipy import ndimage

from pipeline.postprocessing.crf.config import CrfConfig
from pipeline.transforms import CERTAIN, Uncertain

SHAPE = (21, 19, 15)
SPACING_MM = (0.8, 1.0, 1.5)
LEAST = 1e-5


def make_problem(num_classes=4, shape=SHAPE, seed=0, num_channels=1):
    """Return an image, probabilities whose boundaries are off, and the truth.

    Balls of different brightness; a network that sees them shifted and blurred, with noise.
    """
    rng = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    truth = np.zeros(shape, np.uint8)
    for index in range(1, num_classes):
        centre = [n * (0.25 + 0.5 * rng.random()) for n in shape]
        radius = min(shape) * (0.22 + 0.1 * rng.random())
        truth[np.linalg.norm(places - centre, axis=-1) < radius] = index
    image = np.stack(
        [400 / num_classes * rng.permutation(num_classes)[truth] + rng.normal(0, 20, shape)]
        * num_channels
    )
    image += rng.normal(0, 5, image.shape)
    seen = ndimage.shift(truth, (1.8, -1.5, 1.2), order=0)
    soft = [ndimage.gaussian_filter((seen == c) * 1.0, 1.2) for c in range(num_classes)]
    noise = ndimage.gaussian_filter(rng.normal(0, 1, (num_classes, *shape)), (0, 1, 1, 1))
    logits = 12 * np.stack(soft) + 3 * noise
    shares = np.exp(logits - logits.max(axis=0))
    return image.astype(np.float32), (shares / shares.sum(axis=0)).astype(np.float32), truth


@cache
def exact_classes(num_classes, seed, config, unit):
    """Return the classes that exact mean field gives for a problem; slow, so once only."""
    image, shares, _ = make_problem(num_classes, seed=seed)
    return solve_exactly(image, shares, config, SPACING_MM, unit).argmax(axis=0)


def solve_exactly(image, shares, config, spacing_mm, unit):
    """Mean field by summing over all pairs of voxels.

    Source: equations 2 to 5 of Krähenbühl and Koltun, with messages normalised as the configuration
    says, and every voxel taking part.
    """
    num_classes = len(shares)
    places = np.stack(np.meshgrid(*map(np.arange, shares.shape[1:]), indexing="ij"), axis=-1)
    places_mm = torch.tensor((places * spacing_mm).reshape(-1, 3), dtype=torch.float32)
    looks = torch.tensor(image.reshape(len(image), -1).T) / unit
    features = [
        torch.cat([places_mm / config.theta_position_mm, looks / config.theta_intensity], dim=1),
        places_mm / config.theta_smoothness_mm,
    ]
    weights = [config.weight_appearance, config.weight_smoothness]
    both = _kernel(features[0], config).mul_(weights[0])
    both += _kernel(features[1], config).mul_(weights[1])
    cost = 1 - torch.eye(num_classes)
    if config.compatibility is not None:
        cost = torch.tensor(config.compatibility)
    unary = torch.tensor(shares.reshape(num_classes, -1).T).clamp_min(LEAST).log()
    belief = unary.softmax(dim=1)
    for _ in range(config.iterations):
        belief = (unary - both @ belief @ cost.T).softmax(dim=1)
    return belief.T.reshape(shares.shape).numpy()


def _kernel(feature, config):
    kernel = torch.cdist(feature, feature).square_().mul_(-0.5).exp_()
    around = kernel.sum(dim=1)
    if config.normalisation == "row":
        return kernel.div_(around[:, None])
    return kernel.mul_(around.rsqrt()[:, None]).mul_(around.rsqrt()[None])


def uncertain_of(shares, top_k, certain=CERTAIN):
    """Return the uncertain voxels of dense probabilities, with float32 probabilities."""
    flat = shares.reshape(len(shares), -1)
    voxel_N = np.flatnonzero(flat.max(axis=0) < certain)
    order = np.argsort(-flat[:, voxel_N], axis=0, kind="stable")[:top_k]
    values = np.take_along_axis(flat[:, voxel_N], order, axis=0)
    return Uncertain(voxel_N, order.T.astype(np.int16), values.T.astype(np.float32))


@pytest.fixture
def config():
    return CrfConfig(
        theta_position_mm=4.0,
        theta_intensity=1.0,
        weight_appearance=6.0,
        theta_smoothness_mm=2.0,
        weight_smoothness=2.0,
    )
