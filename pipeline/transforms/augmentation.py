"""Random changes to a training patch, from MONAI's transforms."""

from collections.abc import Hashable, Mapping

import numpy as np
import torch
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandScaleIntensityFixedMeand,
)

from pipeline.transforms.config import AugmentationConfig

Patch = Mapping[Hashable, torch.Tensor]
AXES = ("R", "A", "S")


def build_augmentation(
    config: AugmentationConfig,
    patch_size: tuple[int, int, int],
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> Compose:
    """Return the transforms that turn a region around a patch into an augmented patch.

    Args:
        config: Which changes, how often and how strong.
        patch_size: Size of the result along I, J, K.
        spacing_mm: Of the working grid along I, J, K.

    Returns:
        Takes `{"image": (C, I, J, K), "label": (1, I, J, K)}` at least as large as the patch, gives
        the same of exactly `patch_size`. Seed it with `set_random_state` before each call.
    """
    image = ["image"]
    flips = [
        RandFlipd(("image", "label"), prob=0.5, spatial_axis=AXES.index(axis))
        for axis in config.flip_axes
    ]
    return Compose(
        [
            RandAffined(
                ("image", "label"),
                prob=config.affine_probability,
                rotate_range=rotation_ranges(config.rotation_degrees, spacing_mm),
                scale_range=(config.scale_range,) * 3,
                spatial_size=patch_size,
                mode=("bilinear", "nearest"),
                padding_mode="border",
            ),
            *flips,
            RandGaussianNoised(image, prob=config.noise_probability, std=0.1),
            RandGaussianSmoothd(
                image,
                prob=config.blur_probability,
                sigma_x=(0.3, 0.8),
                sigma_y=(0.3, 0.8),
                sigma_z=(0.3, 0.8),
            ),
            RandScaleIntensityFixedMeand(image, prob=config.contrast_probability, factors=0.25),
            RandScaleIntensityd(image, prob=config.brightness_probability, factors=0.2),
            RandAdjustContrastd(
                image, prob=config.gamma_probability, gamma=(0.7, 1.5), retain_stats=True
            ),
        ]
    )


def rotation_ranges(
    degrees: float, spacing_mm: tuple[float, float, float]
) -> tuple[float, float, float]:
    """Return the largest rotation about each axis, in radians.

    MONAI rotates voxel indices, which shears anatomy where spacing differs. So the angle about an
    axis shrinks with the ratio of the other two spacings: 15 degrees stay 15 in the plane of thick
    slices, and become 2 out of it at a ratio of 8.
    """

    def about(first: float, second: float) -> float:
        return float(np.deg2rad(degrees)) * min(first, second) / max(first, second)

    i, j, k = spacing_mm
    return about(j, k), about(i, k), about(i, j)
