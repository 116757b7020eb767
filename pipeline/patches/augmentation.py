"""Random changes to training patches: drawn for each patch, applied to a batch where it lies.

A patch is changed by itself, never as part of a batch: sums over it then come out to the last bit
the same, whatever else is in the batch.

What happens to a patch is drawn on the CPU, from its own random generator, and is small. Applying
it is torch's work and runs on any device: in the worker that loads the patches, or on the GPU that
trains on them. A patch for which nothing was drawn is only copied.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from pipeline.patches.movement import STAY, Bending, Matrix, Movement, move, num_controls
from pipeline.transforms.config import AugmentationConfig


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


AXES = ("R", "A", "S")

THICK_SLICES = 3.0
"""An axis whose spacing is more than this many times the next largest is that of thick slices.

Moving what they show across them would mix what is far apart, so they are turned, scaled and bent
in their plane only.
Source: Isensee et al., nnU-Net, Nature Methods 18, 2021, doi:10.1038/s41592-020-01008-z (its
anisotropy threshold).
"""

MAX_NOISE_STD = 0.1
BLUR_SIGMA = (0.3, 0.8)
CONTRAST = (0.75, 1.25)
BRIGHTNESS = (0.8, 1.2)
GAMMA = (0.7, 1.5)
LOW_RESOLUTION = (0.5, 1.0)
"""Share of the voxels that a simulated coarser scan has along each axis."""


@dataclass(frozen=True)
class Changes:
    """What was drawn for one patch; the defaults change nothing.

    Attributes:
        movement: Of image and label.
        noise_std: Standard deviation, in units of the image, which has about 1.
        noise_seed: Of the noise's values.
        blur_sigma: Along I, J, K, in voxels, or None.
        contrast: Factor on the differences from the mean.
        brightness: Factor on everything.
        zoom: Share of the voxels that a coarser scan has along I, J, K, or None.
        gamma: Exponent of the intensities.
    """

    movement: Movement = STAY
    noise_std: float = 0.0
    noise_seed: int = 0
    blur_sigma: tuple[float, ...] | None = None
    contrast: float = 1.0
    brightness: float = 1.0
    zoom: tuple[float, ...] | None = None
    gamma: float = 1.0


class Augmentation:
    """Draws and applies changes.

    Args:
        config: Which changes, how often and how strong.
        patch_size: Along I, J, K.
        spacing_mm: Of the working grid along I, J, K.

    Attributes:
        patch_size: Of the result.
        margin: Voxels around a patch that it may be moved by, along I, J, K.
        region_size: What `apply` takes: the size of a patch with its margin on both sides.
    """

    def __init__(
        self,
        config: AugmentationConfig,
        patch_size: tuple[int, int, int],
        spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    ) -> None:
        self.patch_size = patch_size
        self._config = config
        self._spacing_mm = np.asarray(spacing_mm)
        self._thick_axis = thick_axis(spacing_mm)
        self.margin = self._choose_margin()
        i, j, k = (n + 2 * m for n, m in zip(patch_size, self.margin, strict=True))
        self.region_size = i, j, k

    def draw(self, rng: np.random.Generator) -> Changes:
        """Draw the changes to one patch."""
        config = self._config

        def happens(probability: float) -> bool:
            return bool(rng.random() < probability)

        changes: dict[str, object] = {}
        flips = tuple(AXES.index(axis) for axis in config.flip_axes if happens(0.5))
        matrix = self._draw_matrix(rng) if happens(config.affine_probability) else None
        bending = self._draw_bending(rng) if happens(config.elastic_probability) else None
        changes["movement"] = Movement(flips, bending, matrix)
        if happens(config.noise_probability):
            changes["noise_std"] = rng.uniform(0, MAX_NOISE_STD)
            changes["noise_seed"] = int(rng.integers(2**63))
        if happens(config.blur_probability):
            changes["blur_sigma"] = tuple(rng.uniform(*BLUR_SIGMA, 3).tolist())
        if happens(config.contrast_probability):
            changes["contrast"] = rng.uniform(*CONTRAST)
        if happens(config.brightness_probability):
            changes["brightness"] = rng.uniform(*BRIGHTNESS)
        if happens(config.low_resolution_probability):
            share = rng.uniform(*LOW_RESOLUTION)
            changes["zoom"] = tuple(1.0 if a == self._thick_axis else share for a in range(3))
        if happens(config.gamma_probability):
            changes["gamma"] = rng.uniform(*GAMMA)
        return Changes(**changes)  # type: ignore[arg-type]

    def apply(
        self, image_BCIJK: torch.Tensor, label_BIJK: torch.Tensor, changes: Sequence[Changes]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Turn regions around patches into augmented patches; the regions stay as they are.

        Args:
            image_BCIJK: Regions of `region_size`, float32.
            label_BIJK: Their class indices.
            changes: To each of them.

        Returns:
            Image `(B, C, *patch_size)` float32 and label `(B, *patch_size)` int64.
        """
        movements = [change.movement for change in changes]
        image, label = move(image_BCIJK, label_BIJK, movements, self.patch_size)
        for patch_CIJK, change in zip(image, changes, strict=True):
            change_intensities(patch_CIJK, change)
        return image, label

    def _choose_margin(self) -> tuple[int, int, int]:
        """Make room for the largest scaling, and for half the largest angle about one axis.

        Most of what turned patches show is then tissue and not a repeated border.
        """
        config, half_mm = self._config, np.asarray(self.patch_size) * self._spacing_mm / 2
        reach_mm = half_mm.copy()
        if config.affine_probability > 0:
            largest = math.radians(config.rotation_degrees) / 2
            for axis in self._turning_axes():
                for a, b in ((axis - 2, axis - 1), (axis - 1, axis - 2)):
                    angle = min(largest, math.atan2(half_mm[b], half_mm[a]))
                    turned_mm = half_mm[a] * math.cos(angle) + half_mm[b] * math.sin(angle)
                    reach_mm[a] = max(reach_mm[a], turned_mm)
            reach_mm *= 1 + config.scale_range
        if config.elastic_probability > 0:
            reach_mm += config.elastic_mm / 2
        if self._thick_axis is not None:
            reach_mm[self._thick_axis] = half_mm[self._thick_axis]
        # Rounded, since 1.15 times 20 is a little more than 23.
        i, j, k = (math.ceil(n) for n in np.round((reach_mm - half_mm) / self._spacing_mm, 6))
        return i, j, k

    def _turning_axes(self) -> tuple[int, ...]:
        return (0, 1, 2) if self._thick_axis is None else (self._thick_axis,)

    def _draw_matrix(self, rng: np.random.Generator) -> Matrix:
        """Scale along the axes, then turn about I, J and K, all in mm."""
        angles, largest = np.zeros(3), math.radians(self._config.rotation_degrees)
        for axis in self._turning_axes():
            angles[axis] = rng.uniform(-largest, largest)
        change = self._config.scale_range
        scale = rng.uniform(1 - change, 1 + change, 3)
        if self._thick_axis is not None:
            scale[self._thick_axis] = 1
        in_mm = rotation(angles) @ np.diag(scale * self._spacing_mm)
        return np.asarray(in_mm / self._spacing_mm[:, None])

    def _draw_bending(self, rng: np.random.Generator) -> Bending:
        config = self._config
        i, j, k = config.elastic_spacing_mm / self._spacing_mm
        numbers = map(num_controls, self.patch_size, (i, j, k))
        controls = rng.uniform(-config.elastic_mm, config.elastic_mm, (3, *numbers))
        controls /= self._spacing_mm[:, None, None, None]
        if self._thick_axis is not None:
            controls[self._thick_axis] = 0
        return Bending(controls, (float(i), float(j), float(k)))


def change_intensities(image_CIJK: torch.Tensor, changes: Changes) -> None:
    """Change one patch, in place."""
    steps: list[tuple[bool, Callable[..., object], tuple[object, ...]]] = [
        (changes.noise_std > 0, add_noise, (changes.noise_std, changes.noise_seed)),
        (changes.blur_sigma is not None, blur, (changes.blur_sigma,)),
        (changes.contrast != 1, scale_contrast, (changes.contrast,)),
        (changes.brightness != 1, torch.Tensor.mul_, (changes.brightness,)),
        (changes.zoom is not None, lower_resolution, (changes.zoom,)),
        (changes.gamma != 1, apply_gamma, (changes.gamma,)),
    ]
    for is_drawn, change, how in steps:
        if is_drawn:
            change(image_CIJK, *how)


def rotation(angles: Sequence[float] | Matrix) -> Matrix:
    """Return the matrix that turns about K, then J, then I, by angles in radians."""
    result = np.eye(3)
    for axis, angle in enumerate(angles):
        about, (a, b) = np.eye(3), ((axis + 1) % 3, (axis + 2) % 3)
        about[a, a] = about[b, b] = math.cos(angle)
        about[b, a] = math.sin(angle)
        about[a, b] = -about[b, a]
        result = result @ about
    return result


def thick_axis(spacing_mm: Sequence[float]) -> int | None:
    """Return the axis across thick slices, if slices are thick."""
    *_, second, largest = sorted(spacing_mm)
    return list(spacing_mm).index(largest) if largest > THICK_SLICES * second else None
