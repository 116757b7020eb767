"""The plans made by hand, written down before any of them was run, each with its reason.

What is not said here is the same for all plans of a data set (`COMMON`) or a default of Trivox.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Size = tuple[int, int, int]


@dataclass(frozen=True)
class HandMade:
    """A plan made by hand.

    Attributes:
        name: In the tables.
        spacing_mm: Of the working grid along R, A, S.
        patch_size: In working voxels.
        batch_size: Patches a step.
        features: Of each level of the U-Net, the finest first.
        reason: Why somebody would choose it.
        strides: To each level from the one above; empty: 2 along every axis.
        kernel_sizes: Of each level; empty: 3 along every axis.
        settings: Others, by section, that it alone has.
    """

    name: str
    spacing_mm: tuple[float, float, float]
    patch_size: Size
    batch_size: int
    features: tuple[int, ...]
    reason: str
    strides: tuple[Size, ...] = ()
    kernel_sizes: tuple[Size, ...] = ()
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def _features(width: int, levels: int) -> tuple[int, ...]:
    return tuple(width << level for level in range(levels))


def _cube(mm: float) -> tuple[float, float, float]:
    return mm, mm, mm


COMMON: Mapping[str, Mapping[str, Any]] = {
    "hippocampus": {
        # As in configs/msd_hippocampus.yaml: the labels name front and back, not a side.
        "augmentation": {"flip_axes": ["R"]},
        "inference": {"mirror": True},
    },
    "thick_slices": {"augmentation": {"flip_axes": ["R"]}},
}
"""Settings that all plans made by hand for a data set share."""

# The volume is about 114 x 87 x 53 mm, of 0.6 mm voxels; the organ fills half of each axis.
_LARGE_ORGAN = (
    HandMade(
        "0.6 mm, 72 x 72 x 64, 16",
        _cube(0.6), (72, 72, 64), 2, _features(16, 4),
        "Every detail that there is, in cubes of 43 mm as a small device forces: the customary "
        "choice, which never sees where in the body it is.",
    ),
    HandMade(
        "1 mm, 120 x 88 x 56, 8",
        _cube(1.0), (120, 88, 56), 2, _features(8, 4),
        "The whole volume as fine as a narrow network makes affordable.",
    ),
    HandMade(
        "1 mm, 96 x 80 x 56, 16",
        _cube(1.0), (96, 80, 56), 2, _features(16, 4),
        "Most of the volume at 1 mm and the usual width; half as many steps as at 1.25 mm.",
    ),
    HandMade(
        "1.25 mm, 96 x 80 x 48, 16",
        _cube(1.25), (96, 80, 48), 2, _features(16, 4),
        "One patch holds the whole volume at twice the voxel edge: what was best on data of this "
        "kind.",
    ),
    HandMade(
        "1.25 mm, 96 x 80 x 48, 24, 5 levels",
        _cube(1.25), (96, 80, 48), 2, _features(24, 5),
        "The same with a wider and deeper network, for fewer steps that each learn more.",
    ),
    HandMade(
        "1.25 mm, 64 x 56 x 48, 16",
        _cube(1.25), (64, 56, 48), 4, _features(16, 4),
        "80 x 70 x 60 mm: larger than the organ, smaller than the volume; four places a step.",
    ),
    HandMade(
        "1.5 mm, 80 x 64 x 40, 16",
        _cube(1.5), (80, 64, 40), 4, _features(16, 4),
        "The whole volume four times a step; most steps at a resolution that a surface within "
        "a millimetre may still bear.",
    ),
    HandMade(
        "2 mm, 64 x 48 x 32, 24, 5 levels",
        _cube(2.0), (64, 48, 32), 4, _features(24, 5),
        "Whole volumes as small as they go before the surface suffers, and a strong network.",
    ),
    HandMade(
        "2.5 mm, 48 x 40 x 24, 24",
        _cube(2.5), (48, 40, 24), 4, _features(24, 4),
        "Very many steps: where the organ is, at the price of its surface.",
    ),
)  # fmt: skip

# The volume is about 35 x 50 x 35 mm, of 1 mm voxels.
_HIPPOCAMPUS = (
    HandMade(
        "1 mm, 40 x 56 x 40, batch 4, 16",
        _cube(1.0), (40, 56, 40), 4, _features(16, 4),
        "Whole volumes as they are: what configs/msd_hippocampus.yaml has.",
    ),
    HandMade(
        "1 mm, 40 x 56 x 40, batch 2, 16",
        _cube(1.0), (40, 56, 40), 2, _features(16, 4),
        "The same with twice the steps.",
    ),
    HandMade(
        "1 mm, 40 x 56 x 40, batch 8, 8",
        _cube(1.0), (40, 56, 40), 8, _features(8, 4),
        "A narrow network, and calm steps over many cases.",
    ),
    HandMade(
        "1 mm, 40 x 56 x 40, batch 2, 32",
        _cube(1.0), (40, 56, 40), 2, _features(32, 4),
        "A wide network, with small batches to pay for it.",
    ),
    HandMade(
        "1 mm, 32 x 32 x 32, batch 8, 16",
        _cube(1.0), (32, 32, 32), 8, _features(16, 4),
        "Parts of the volume from many cases at once.",
    ),
    HandMade(
        "1 mm, 32 x 32 x 32, batch 4, 24",
        _cube(1.0), (32, 32, 32), 4, _features(24, 4),
        "Parts of the volume, and a wider network instead of more of them.",
    ),
    HandMade(
        "0.8 mm, 48 x 64 x 48, batch 2, 16",
        _cube(0.8), (48, 64, 48), 2, _features(16, 4),
        "Finer than the data: the border of the labels falls between its voxels.",
    ),
    HandMade(
        "1.25 mm, 32 x 40 x 32, batch 4, 24",
        _cube(1.25), (32, 40, 32), 4, _features(24, 4),
        "Whole volumes, somewhat coarser, for a wider network.",
    ),
    HandMade(
        "1.5 mm, 24 x 40 x 24, batch 8, 32",
        _cube(1.5), (24, 40, 24), 8, _features(32, 4),
        "As coarse as such small structures may bear, with a strong network and many cases a step.",
    ),
)  # fmt: skip

# The volume is about 150 x 150 x 112 mm, of 1 mm voxels; vessels are 2 to 6 mm wide.
_BRANCHING = (
    HandMade(
        "1 mm, 64 x 64 x 48, 16",
        _cube(1.0), (64, 64, 48), 2, _features(16, 4),
        "Thin branches need every voxel; patches as large as leaves some hundred steps.",
    ),
    HandMade(
        "1.5 mm, 72 x 72 x 56, 16",
        _cube(1.5), (72, 72, 56), 2, _features(16, 4),
        "Most of the volume, to tell one tree from the other, as coarse as its branches bear.",
    ),
)  # fmt: skip

# The volume is about 184 x 156 x 144 mm, of 1.2 mm voxels; lesions are 4 to 12 mm wide.
_TWO_SCALES = (
    HandMade(
        "1.5 mm, 64 x 64 x 64, 16",
        _cube(1.5), (64, 64, 64), 2, _features(16, 4),
        "Cubes of 96 mm hold the organ, at a spacing that shows the smallest lesions.",
    ),
    HandMade(
        "2 mm, 64 x 64 x 64, 16, 5 levels",
        _cube(2.0), (64, 64, 64), 2, _features(16, 5),
        "Most of the volume and a deeper network; the smallest lesions are two voxels wide.",
    ),
)  # fmt: skip

# The volume is about 152 x 144 x 92 mm, of 0.8 x 0.8 x 5 mm voxels.
_THICK_SLICES = (
    HandMade(
        "0.8 x 0.8 x 5 mm, 96 x 96 x 16, 16",
        (0.8, 0.8, 5.0), (96, 96, 16), 2, _features(16, 5),
        "Slices as they are; patches of 77 x 77 x 80 mm around the gland, flat kernels at first.",
        strides=((1, 1, 1), (2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2)),
        kernel_sizes=((3, 3, 1), (3, 3, 1), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
    ),
    HandMade(
        "1.25 x 1.25 x 5 mm, 112 x 112 x 16, 16",
        (1.25, 1.25, 5.0), (112, 112, 16), 2, _features(16, 5),
        "Nearly whole volumes, at an in-plane spacing that the nodules still bear.",
        strides=((1, 1, 1), (2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2)),
        kernel_sizes=((3, 3, 1), (3, 3, 1), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
    ),
)  # fmt: skip

HAND_MADE: Mapping[str, Sequence[HandMade]] = {
    "large_organ": _LARGE_ORGAN,
    "hippocampus": _HIPPOCAMPUS,
    "branching": _BRANCHING,
    "two_scales": _TWO_SCALES,
    "thick_slices": _THICK_SLICES,
}
"""By data set."""

_AS_STARTED: Mapping[str, Mapping[str, Any]] = {
    "augmentation": {"flip_axes": ["R"]},
    "training": {"foreground_share": 0.67, "search_postprocessing": False},
}

STARTING_COMMIT: Mapping[tuple[str, int], HandMade] = {
    ("large_organ", 5): HandMade(
        "starting commit",
        (0.7508, 0.7508, 0.7593), (56, 56, 56), 2, _features(16, 4),
        "What `trivox plan --minutes 5` made of the cohort.",
        settings=_AS_STARTED,
    ),
    ("large_organ", 15): HandMade(
        "starting commit",
        (0.6477, 0.6477, 0.655), (64, 64, 64), 2, _features(16, 5),
        "What `trivox plan --minutes 15` made of the cohort.",
        settings=_AS_STARTED,
    ),
}  # fmt: skip
"""The plans of the commit that this benchmark began with, by data set and minutes. The speed that
they go by was estimated from processor time."""
