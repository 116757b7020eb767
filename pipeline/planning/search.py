"""The largest patch and batch that memory and time allow, from a fixed ladder of candidates.

The ladder does not depend on the memory: patches from large to small, each with the spacing at
which it covers enough of a volume. The first candidate that fits is taken, so more memory never
gives a smaller patch. nnU-Net instead shrinks one patch until it fits, at one spacing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.planning.rules import (
    MIN_PATCH_SHARE,
    Kind,
    coarsen,
    largest_batch,
    largest_coarsening,
    target_spacing,
)
from pipeline.planning.shape import Shape, fit_shape
from pipeline.planning.survey import Survey, Triple

LARGEST_PATCH = {"cpu": 200_000, "cuda": 160**3}
"""Voxels. A CPU core trains on about as many in half a second."""

SMALLEST_PATCH = 24**3
LADDER = 1.25
"""Ratio of one size of patch to the next."""

COARSER = 1.1
"""Ratio of one voxel volume to the next."""

MAX_LEVELS = {"cpu": 5, "cuda": 6}
WIDTHS = {"cpu": (16, 12, 8), "cuda": (32, 24, 16, 8)}
"""Features of the finest level; narrower ones only where memory is short. nnU-Net's is 32."""

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


def list_candidates(survey: Survey, kind: Kind) -> list[Candidate]:
    """Return candidates, the best first: smaller batches, then patches, then narrower networks."""
    places = _ladder(survey, kind)
    width, *narrower = WIDTHS[kind]
    candidates = []
    for rank, (spacing_mm, shape, share) in enumerate(places):
        volume_voxels = shape.num_voxels / share
        most = largest_batch(survey, shape.num_voxels, volume_voxels, kind) if rank == 0 else 2
        if kind == "cpu":
            most = int(np.clip(2 * LARGEST_PATCH["cpu"] // shape.num_voxels, 2, most))
        for batch_size in range(most, 1, -1):
            features = widen(width, len(shape.strides))
            candidates.append(Candidate(spacing_mm, shape, features, batch_size, share))
    spacing_mm, shape, share = places[-1]
    for less in narrower:
        features = widen(less, len(shape.strides))
        candidates.append(Candidate(spacing_mm, shape, features, 2, share))
    return candidates


def choose(
    candidates: Sequence[Candidate],
    memory_gb_of: Callable[[Candidate], float],
    seconds_of: Callable[[Candidate], float],
    memory_gb: float,
    max_seconds: float,
) -> Candidate | None:
    """Return the first candidate that memory and time allow.

    Where time allows none, the last one that memory allows at full width; None if memory allows
    none at all.
    """
    smallest = None
    for candidate in candidates:
        if memory_gb_of(candidate) > memory_gb:
            continue
        if seconds_of(candidate) <= max_seconds:
            return candidate
        is_narrower = smallest is not None and candidate.features[0] < smallest.features[0]
        smallest = smallest if is_narrower else candidate
    return smallest


def widen(width: int, num_levels: int) -> tuple[int, ...]:
    """Return the features of each level: doubled at each, up to 320 (nnU-Net's bound)."""
    return tuple(min(MAX_FEATURES, width << level) for level in range(num_levels))


def _ladder(survey: Survey, kind: Kind) -> list[tuple[Triple, Shape, float]]:
    """Spacing, shape and patch share for each size of patch, without repetition, largest first."""
    size_mm, spacings = survey.size_mm, _spacings(survey)
    places: dict[Shape, tuple[Triple, Shape, float]] = {}
    voxels = float(LARGEST_PATCH[kind])
    while voxels >= SMALLEST_PATCH:
        for spacing_mm in spacings:
            shape = fit_shape(size_mm, spacing_mm, voxels, MAX_LEVELS[kind])
            share = min(1.0, shape.num_voxels / _num_voxels(size_mm, spacing_mm))
            if share >= MIN_PATCH_SHARE:
                break
        places.setdefault(shape, (spacing_mm, shape, share))
        voxels /= LADDER
    return sorted(places.values(), key=lambda place: -place[1].num_voxels)


def _spacings(survey: Survey) -> list[Triple]:
    """Return the target spacing and coarser ones, as far as the smallest label allows."""
    target = target_spacing(survey)
    limit = largest_coarsening(survey, target)
    factors = [1.0]
    while factors[-1] * COARSER <= limit:
        factors.append(factors[-1] * COARSER)
    return [coarsen(target, factor) for factor in factors]


def _num_voxels(size_mm: Triple, spacing_mm: Triple) -> float:
    return float(np.prod(np.maximum(np.array(size_mm) / spacing_mm, 1)))
