"""Change the intensities of one patch, in place; on the device that it is on.

A patch is changed by itself, never as part of a batch: sums over it then come out to the last bit
the same, whatever else is in the batch.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from torch.nn import functional


def add_noise(image_CIJK: torch.Tensor, std: float, seed: int) -> None:
    """Add Gaussian noise that follows from the seed, the shape and the kind of device."""
    generator = torch.Generator(image_CIJK.device).manual_seed(seed)
    image_CIJK += torch.empty_like(image_CIJK).normal_(0, std, generator=generator)


def blur(image_CIJK: torch.Tensor, sigma: Sequence[float]) -> None:
    """Convolve with a Gaussian of `sigma` voxels along I, J, K; the border repeats outside."""
    for axis, along in enumerate(sigma):
        weights = gaussian_weights(along)
        tail, n = len(weights) // 2, image_CIJK.shape[axis + 1]
        # torch counts padding from the last axis on, two numbers each.
        padding = [tail if a == axis else 0 for a in (2, 1, 0) for _ in range(2)]
        padded = functional.pad(image_CIJK, padding, mode="replicate")
        image_CIJK.zero_()
        for shift, weight in enumerate(weights):
            image_CIJK.add_(padded.narrow(axis + 1, shift, n), alpha=weight)


def gaussian_weights(sigma: float) -> list[float]:
    """Integrate a Gaussian over voxels up to 4 sigma from the centre; the weights add up to 1."""
    tail = max(1, math.ceil(4 * sigma - 0.5))
    edges = [math.erf((x - 0.5) / (math.sqrt(2) * sigma)) for x in range(-tail, tail + 2)]
    total = edges[-1] - edges[0]
    return [(high - low) / total for low, high in itertools.pairwise(edges)]


def scale_contrast(image_CIJK: torch.Tensor, factor: float) -> None:
    """Scale the differences from the mean."""
    mean = image_CIJK.mean()
    image_CIJK.sub_(mean).mul_(factor).add_(mean)


def lower_resolution(image_CIJK: torch.Tensor, zoom: Sequence[float]) -> None:
    """Show what a coarser scan would: take the nearest of fewer voxels, interpolate between them.

    Args:
        image_CIJK: The patch.
        zoom: Share of the voxels to keep along I, J, K.

    Source:
        Isensee et al., nnU-Net, Nature Methods 18, 2021, doi:10.1038/s41592-020-01008-z, whose
        upsampling is cubic.
    """
    size = image_CIJK.shape[1:]
    fewer = [max(1, round(n * share)) for n, share in zip(size, zoom, strict=True)]
    # `nearest` would shift the image against its label by up to half of a coarse voxel.
    coarse = functional.interpolate(image_CIJK[None], fewer, mode="nearest-exact")
    image_CIJK.copy_(functional.interpolate(coarse, size, mode="trilinear")[0])


def apply_gamma(image_CIJK: torch.Tensor, gamma: float) -> None:
    """Raise intensities, as shares of their range, to a power; keep their mean and deviation."""
    mean, std = image_CIJK.mean(), image_CIJK.std(correction=0)
    low, high = image_CIJK.aminmax()
    image_CIJK.sub_(low).div_(high - low + 1e-7).pow_(gamma)
    image_CIJK.sub_(image_CIJK.mean())
    image_CIJK.mul_(std / (image_CIJK.std(correction=0) + 1e-8)).add_(mean)
