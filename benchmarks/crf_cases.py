"""Problems for the conditional random field, with known truth."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

HALVES = (160, 160, 96)
"""Voxels of the abdomen-like problem."""

MANY = (512, 512, 300)
MANY_SPACING_MM = (0.8, 0.8, 1.0)


@dataclass(frozen=True)
class Problem:
    """An image, what a network made of it, and the truth."""

    image_IJK: npt.NDArray[np.float32]
    probability_CIJK: npt.NDArray[np.float32]
    truth_IJK: npt.NDArray[np.uint8]


def make_abdomen(shape: tuple[int, int, int] = HALVES, seed: int = 0) -> Problem:
    """Return a CT-like problem of five classes whose boundaries the network puts beside the edges.

    The network's logits are signed distances to displaced organs, with correlated noise and some
    false blobs. It is problem B of the report that the first design was chosen by, draw for draw.
    """
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n, dtype=np.float32) for n in shape], indexing="ij")

    def field(sigma: float) -> npt.NDArray[np.float32]:
        noise = ndimage.gaussian_filter(rng.standard_normal(shape).astype(np.float32), sigma)
        return np.asarray(noise / noise.std())

    wobble = field(8)

    def ball(
        middle: tuple[float, ...], radii: tuple[float, ...], wave: float
    ) -> npt.NDArray[np.bool_]:
        axes = zip((x, y, z), middle, radii, strict=True)
        distance = sum(((axis - m) / r) ** 2 for axis, m, r in axes)
        return np.asarray(distance < 1 + wave * wobble)

    truth = np.zeros(shape, np.uint8)
    body = (x / 0.92) ** 2 + (y / 0.8) ** 2 < 1
    truth[ball((-0.35, 0.0, 0.1), (0.42, 0.5, 0.75), 0.2)] = 1
    truth[ball((0.55, 0.15, 0.2), (0.2, 0.3, 0.5), 0.15)] = 2
    left = ball((0.32, 0.45, -0.3), (0.14, 0.13, 0.45), 0.1)
    truth[left | ball((-0.32, 0.55, -0.35), (0.14, 0.13, 0.4), 0.1)] = 3
    tube = (x - (0.06 + 0.05 * np.sin(3 * z))) ** 2 + (y - 0.3) ** 2
    truth[tube < (0.085 + 0.01 * np.sin(5 * z)) ** 2] = 4
    truth[~body] = 0

    hu = np.where(body, np.where(field(5) > -0.3, 45.0, -95.0), -160.0).astype(np.float32)
    near = ndimage.binary_dilation(truth > 0, iterations=3) & (truth == 0)
    hu[near & (field(6) > -0.5)] = 45
    for value, organ_hu in {1: 105, 2: 125, 3: 185, 4: 150}.items():
        hu[truth == value] = organ_hu
    hu = hu + 6 * field(2) * (hu > 0)
    grain = ndimage.gaussian_filter(rng.standard_normal(shape).astype(np.float32), 0.5)
    hu = ndimage.gaussian_filter(hu, 0.8) + grain * (18.0 / 0.55)
    image = np.clip(hu, -160, 240).astype(np.float32)

    moved = [field(5) * 2.0 for _ in range(3)]
    places = np.meshgrid(*[np.arange(n, dtype=np.float32) for n in shape], indexing="ij")
    seen = ndimage.map_coordinates(
        truth, [p + m for p, m in zip(places, moved, strict=True)], order=0, mode="nearest"
    )
    logits = np.empty((5, *shape), np.float32)
    for value in range(5):
        mask = seen == value
        inside = ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)
        logits[value] = np.clip(inside / 1.3, -6, 6) + 1.2 * field(2)
    for _ in range(30):
        middle = [rng.integers(5, n - 5) for n in shape]
        value, radius = rng.integers(1, 5), rng.uniform(1.5, 3.5)
        box = tuple(slice(max(0, m - 12), m + 13) for m in middle)
        square = sum((places[axis][box] - middle[axis]) ** 2 for axis in range(3))
        logits[(value, *box)] += 14 * np.exp(-square / (2 * radius**2))
    logits -= logits.max(0)
    shares = np.exp(logits)
    return Problem(image, (shares / shares.sum(0)).astype(np.float32), truth)


def make_many(
    num_classes: int, shape: tuple[int, int, int] = MANY, seed: int = 0
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Return an image and a label map of organs that fill an ellipsoid, off by some voxels.

    Organs are the voxels nearest to random seeds, drawn on a grid four times as coarse.
    """
    rng = np.random.default_rng(seed)
    coarse = [-(-n // 4) for n in shape]
    places = np.stack(np.meshgrid(*map(np.arange, coarse), indexing="ij"), -1).astype(np.float32)
    seeds = rng.random((num_classes - 1, 3)) * 0.8 * coarse + 0.1 * np.array(coarse)
    nearest = np.full(coarse, np.inf, np.float32)
    labels = np.zeros(coarse, np.uint8)
    for value, middle in enumerate(seeds, start=1):
        distance = ((places - middle) ** 2).sum(-1)
        closer = distance < nearest
        labels[closer], nearest[closer] = value, distance[closer]
    middle = np.array(coarse) / 2
    outside = (((places - middle) / (0.45 * np.array(coarse))) ** 2).sum(-1) > 1
    labels[outside] = 0
    fine = labels.repeat(4, 0).repeat(4, 1).repeat(4, 2)[: shape[0], : shape[1], : shape[2]]
    fine = np.ascontiguousarray(fine)
    brightness = rng.permutation(np.linspace(-50, 250, num_classes)).astype(np.float32)
    image = brightness[fine] + rng.normal(0, 15, shape).astype(np.float32)
    return image, np.roll(fine, (2, -2, 1), axis=(0, 1, 2))
