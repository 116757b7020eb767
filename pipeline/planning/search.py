"""All that could be trained: spacing, patch, levels, batch and width, chosen together afterwards.

nnU-Net takes one spacing and shrinks one patch until it fits the memory. Here each spacing from the
data's own to a coarse one comes with patches from large to small, so that time can decide, too: a
coarse grid is seen whole and often, a fine one in parts and seldom.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.planning.rules import (
    Kind,
    coarsen,
    largest_batch,
    largest_coarsening,
    target_spacing,
)
from pipeline.planning.shape import Shape, fit_shape
from pipeline.planning.survey import Survey, Triple

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
