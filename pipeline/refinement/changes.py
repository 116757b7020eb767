"""What a refinement changed, label by label.

Axes: I, J, K = voxel axes.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field


class LabelChange(BaseModel):
    """One label before and after."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    voxels_before: int = Field(description="Voxels of the label that was given.")
    voxels_after: int = Field(description="Voxels of the refined label.")
    gained: int = Field(description="Voxels that had another label before.")
    lost: int = Field(description="Voxels that have another label now.")
    ml_before: float = Field(description="Volume that was given, in ml.")
    ml_after: float = Field(description="Refined volume, in ml.")


def count_changes(
    before_IJK: npt.NDArray[np.unsignedinteger],
    after_IJK: npt.NDArray[np.unsignedinteger],
    values: Sequence[int],
    voxel_volume_mm3: float,
) -> dict[int, LabelChange]:
    """Return what became of each label, the background included.

    Args:
        before_IJK: `(I, J, K)` class of each voxel: index into `values`.
        after_IJK: The same, refined.
        values: Label value of each class.
        voxel_volume_mm3: Of one voxel.
    """
    before, gained, lost = (np.zeros(len(values), np.int64) for _ in range(3))
    # One slab at a time: bincount copies its input to int64, eight times a uint8 mask.
    for old_JK, new_JK in zip(before_IJK, after_IJK, strict=True):
        changed_JK = old_JK != new_JK
        for counts, classes in (
            (before, old_JK.ravel()),
            (gained, new_JK[changed_JK]),
            (lost, old_JK[changed_JK]),
        ):
            counts += np.bincount(classes, minlength=len(values))
    ml = voxel_volume_mm3 / 1000
    numbers = zip(values, before.tolist(), gained.tolist(), lost.tolist(), strict=True)
    return {
        int(value): LabelChange(
            voxels_before=had,
            voxels_after=had + more - less,
            gained=more,
            lost=less,
            ml_before=had * ml,
            ml_after=(had + more - less) * ml,
        )
        for value, had, more, less in numbers
    }
