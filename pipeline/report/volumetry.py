"""Measure labelled structures."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.volume import Grid


def volumes_ml(
    labels_IJK: npt.NDArray[np.integer], grid: Grid, labels: Mapping[str, int]
) -> dict[str, float]:
    """Return the volume of each label, in ml; 0 for a label that does not occur.

    Args:
        labels_IJK: `(I, J, K)` label map on `grid`.
        grid: Where the voxels lie.
        labels: Label name to value.
    """
    counts = np.zeros(max(labels.values(), default=0) + 1, dtype=np.int64)
    # One slab at a time: bincount copies its input to int64, eight times a uint8 mask.
    for slab_JK in labels_IJK:
        found = np.bincount(slab_JK.ravel(), minlength=len(counts))
        counts += found[: len(counts)]
    return {
        name: float(counts[value] * grid.voxel_volume_mm3 / 1000) for name, value in labels.items()
    }


def incomplete_labels(
    labels_IJK: npt.NDArray[np.integer], labels: Mapping[str, int]
) -> tuple[str, ...]:
    """Return the labels that touch a face of a box: what is outside is not in their volumes.

    Args:
        labels_IJK: `(I, J, K)` label map, or the part of one that was looked at.
        labels: Label name to value.
    """
    touching: set[int] = set()
    for axis in range(labels_IJK.ndim):
        for end in (0, -1):
            touching.update(np.unique(labels_IJK.take(end, axis)).tolist())
    return tuple(name for name, value in labels.items() if value in touching)


def say_incomplete(names: Sequence[str]) -> str:
    """Return the sentence about labels that touch the end of the volume."""
    verb = "touches" if len(names) == 1 else "touch"
    return f"{', '.join(names)} {verb} the end of the volume: what is outside is not measured"
