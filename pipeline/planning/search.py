"""All that could be trained: spacing, patch, levels, batch and width.

Source:
    Isensee et al., nnU-Net, Nature Methods 18, 2021, doi:10.1038/s41592-020-01008-z, online methods
    and supplementary note 2.

nnU-Net takes one spacing and shrinks one patch until it fits the memory. Here each spacing from the
data's own to a coarse one comes with patches from large to small, so that time can decide, too: a
coarse grid is seen whole and often, a fine one in parts and seldom.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.planning.rules import (
    Kind,
    coarsen,
    largest_batch,
    largest_coarsening,
    target_spacing,
)
from pipeline.planning.survey import Survey, Triple

MIN_MAP = 4
"""Smallest edge of a feature map that halving may leave."""

MIN_LEVELS = 3
MIN_EDGE = 8
"""Edge of the patch of a tiny volume, so that it still has levels."""

Size = tuple[int, int, int]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Shape:
    """A patch and the levels of a U-Net for it, the finest first."""

    patch_size: Size
    strides: tuple[Size, ...]
    kernel_sizes: tuple[Size, ...]

    @property
    def num_voxels(self) -> int:
        """Of the patch."""
        return math.prod(self.patch_size)

    @property
    def deepest_size(self) -> Size:
        """Size of the deepest feature map."""
        i, j, k = np.array(self.patch_size) // np.prod(self.strides, axis=0)
        return int(i), int(j), int(k)


def fit_shape(
    size_mm: Triple,
    spacing_mm: Triple,
    max_voxels: float,
    max_levels: int,
    *,
    is_trimmed: bool = False,
) -> Shape:
    """Return a patch of at most about `max_voxels`, as near to a cube in mm as the volume allows.

    Args:
        size_mm: Of the median volume along R, A, S; the patch exceeds it only to be divisible.
        spacing_mm: Of the working grid along R, A, S.
        max_voxels: May be exceeded by rounding where the whole volume fits.
        max_levels: Of the network, at least 3.
        is_trimmed: Leave out a rim of a volume that fits, up to half a step of the deepest level,
            rather than fill the step with what is no volume.
    """
    size, spacing = np.array(size_mm), np.array(spacing_mm)
    volume = np.maximum(np.round(size / spacing, 3), 1.0)
    low, high = float(spacing.min()), float((volume * spacing).max())
    for _ in range(50):
        middle = (low + high) / 2
        fits = np.prod(np.clip(middle / spacing, 1, volume)) <= max_voxels
        low, high = (middle, high) if fits else (low, middle)
    wanted = np.clip(high / spacing, 1, volume)
    is_whole = wanted >= volume * 0.999
    wanted = np.ceil(wanted - 1e-6)
    wanted = np.where(wanted < MIN_MAP, wanted, np.maximum(wanted, MIN_EDGE))
    if wanted.max() < MIN_EDGE:
        wanted = np.where(wanted > 1, MIN_EDGE, wanted)
    if wanted.max() == 1:
        wanted[:] = MIN_EDGE
    strides, kernels = plan_levels(wanted, spacing, max_levels)
    divisors = np.prod(strides, axis=0)
    held = np.ceil(wanted / divisors - 0.5 * is_trimmed)
    rounded = np.where(is_whole, held, np.round(wanted / divisors))
    patch = np.maximum(rounded, 1) * divisors
    if (patch == divisors).all():
        patch[np.argmax(divisors)] *= 2
    return Shape(_size(patch), strides, kernels)


def plan_levels(
    patch: Floats, spacing: Floats, max_levels: int
) -> tuple[tuple[Size, ...], tuple[Size, ...]]:
    """Return strides and kernel sizes of each level.

    An axis is halved while at least 4 voxels stay and its spacing is below twice the finest of
    those that can still be halved. A kernel is 1 along an axis until its spacing has come within
    twice the finest one, and 3 from there on; at the deepest level it is 3 everywhere. It is 3 as
    well from where an axis is first halved, since a kernel of 1 would leave out every other voxel:
    nnU-Net lets that happen where the finest axis is too short to be halved. Three levels are made
    even of a patch that would have fewer.
    """
    size, spacing = patch.astype(float), spacing.astype(float)
    strides: list[Any] = [np.ones(3, int)]
    kernels: list[Any] = []
    is_wide = np.zeros(3, bool)
    while True:
        is_wide |= spacing < 2 * spacing.min()
        kernels.append(np.where(is_wide, 3, 1))
        halved = _axes_to_halve(size, spacing, is_shallow=len(strides) < MIN_LEVELS)
        is_enough = len(strides) >= MIN_LEVELS and not halved.any()
        if is_enough or len(strides) == max_levels:
            break
        strides.append(np.where(halved, 2, 1))
        is_wide |= halved
        size, spacing = np.ceil(size / strides[-1]), spacing * strides[-1]
    kernels[-1] = np.full(3, 3)
    # Along a single slice there are no neighbours.
    kernels = [np.where(patch == 1, 1, kernel) for kernel in kernels]
    return tuple(map(_size, strides)), tuple(map(_size, kernels))


def _axes_to_halve(size: Floats, spacing: Floats, *, is_shallow: bool) -> npt.NDArray[np.bool_]:
    for smallest in (MIN_MAP, 1) if is_shallow else (MIN_MAP,):
        can = size >= 2 * smallest
        if not can.any():
            continue
        halved: npt.NDArray[np.bool_] = can & (spacing < 2 * spacing[can].min())
        # A single axis is worth a level only if it is long.
        if halved.sum() > 1 or is_shallow or size[halved].max() >= 3 * smallest:
            return halved
    return np.zeros(3, bool)


def _size(values: npt.NDArray[Any]) -> Size:
    i, j, k = (int(value) for value in values)
    return i, j, k


LARGEST_PATCH = {"cpu": 600_000, "cuda": 160**3}
"""Voxels."""

SMALLEST_PATCH = 24**3
LADDER = 2.0
"""Ratio of one size of patch to the next."""

COARSER = 1.4
"""Ratio of one voxel volume to the next, at least."""

MOST_SPACINGS = 10

COARSEST_VOLUME = 32**3
"""Voxels that the median volume keeps at the coarsest spacing."""

MAX_LEVELS = {"cpu": 5, "cuda": 6}
WIDTHS = {"cpu": (16, 8), "cuda": (32, 16, 8)}
"""Features of the finest level. nnU-Net's is 32."""

BATCHES = {"cpu": (2, 4), "cuda": (2, 4, 8, 12)}

MAX_FEATURES = 320


@dataclass(frozen=True)
class Candidate:
    """A network with its patch, spacing and batch.

    Attributes:
        spacing_mm: Working spacing along R, A, S.
        shape: Patch and levels.
        features: Of each level.
        batch_size: Patches per iteration.
        patch_share: Share of the median volume that the patch covers.
    """

    spacing_mm: Triple
    shape: Shape
    features: tuple[int, ...]
    batch_size: int
    patch_share: float

    def __str__(self) -> str:
        spacing = " x ".join(f"{value:.3g}" for value in self.spacing_mm)
        patch = " x ".join(map(str, self.shape.patch_size))
        features = "-".join(map(str, self.features))
        return f"spacing {spacing} mm, patch {patch}, batch {self.batch_size}, features {features}"

    @property
    def edges_mm(self) -> Triple:
        """Extent of the patch along R, A, S."""
        r, a, s = (
            float(n * mm) for n, mm in zip(self.shape.patch_size, self.spacing_mm, strict=True)
        )
        return r, a, s


def list_candidates(survey: Survey, kind: Kind) -> list[Candidate]:
    """Return all candidates: the finest spacing, largest patch, widest network first."""
    return [one for spacing_mm in list_spacings(survey) for one in _at(spacing_mm, survey, kind)]


def list_spacings(survey: Survey) -> list[Triple]:
    """Return the target spacing and coarser ones.

    They go as far as the smallest label and the size of the volume allow.
    """
    target = target_spacing(survey)
    limit = min(
        largest_coarsening(survey, target), _num_voxels(survey.size_mm, target) / COARSEST_VOLUME
    )
    step = max(COARSER, limit ** (1 / (MOST_SPACINGS - 1)))
    number = 1 + int(np.log(max(limit, 1.0)) / np.log(step) + 1e-6)
    return [coarsen(target, step**power) for power in range(number)]


def widen(width: int, num_levels: int) -> tuple[int, ...]:
    """Return the features of each level: doubled at each, up to 320 (nnU-Net's bound)."""
    return tuple(min(MAX_FEATURES, width << level) for level in range(num_levels))


def _at(spacing_mm: Triple, survey: Survey, kind: Kind) -> Iterator[Candidate]:
    volume_voxels = _num_voxels(survey.size_mm, spacing_mm)
    shapes: dict[Shape, None] = {}
    voxels = float(LARGEST_PATCH[kind])
    while voxels >= SMALLEST_PATCH:
        for is_trimmed in (False, True):
            shape = fit_shape(
                survey.size_mm, spacing_mm, voxels, MAX_LEVELS[kind], is_trimmed=is_trimmed
            )
            shapes[shape] = None
        voxels /= LADDER
    for shape in shapes:
        share = _share_of(survey.size_mm, shape, spacing_mm)
        most = largest_batch(survey, shape.num_voxels, volume_voxels, kind)
        for width in WIDTHS[kind]:
            features = widen(width, len(shape.strides))
            for batch_size in BATCHES[kind]:
                if batch_size <= most:
                    yield Candidate(spacing_mm, shape, features, batch_size, share)


def _share_of(size_mm: Triple, shape: Shape, spacing_mm: Triple) -> float:
    """Return the share of a volume that a patch covers, 0 to 1."""
    edges_mm = np.array(shape.patch_size) * spacing_mm
    return float(np.prod(np.minimum(edges_mm / size_mm, 1)))


def _num_voxels(size_mm: Triple, spacing_mm: Triple) -> float:
    return float(np.prod(np.maximum(np.array(size_mm) / spacing_mm, 1)))
