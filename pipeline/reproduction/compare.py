"""How two masks of one study differ, voxel by voxel.

Axes: I, J, K = voxel axes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.errors import StudyError
from pipeline.evaluation.overlap import count_overlap, dice
from pipeline.study import read_label_map


@dataclass(frozen=True)
class MaskComparison:
    """What differs between two masks.

    Attributes:
        same_bytes: Whether the files are the same.
        num_voxels: In each mask.
        num_foreground: Voxels that have a label in one of the masks at least.
        num_differing: Voxels with another label, or with one in one mask only.
        dice: Of each label; None where neither mask has it.
    """

    same_bytes: bool
    num_voxels: int
    num_foreground: int
    num_differing: int
    dice: Mapping[str, float | None]

    @property
    def share(self) -> float:
        """Share of the foreground that differs; 0 where nothing does."""
        return self.num_differing / self.num_foreground if self.num_differing else 0.0


def compare_masks(recorded: Path, again: Path, labels: Mapping[str, int]) -> MaskComparison:
    """Compare two masks of one study.

    Args:
        recorded: The one.
        again: The other.
        labels: Name and value of each structure.

    Raises:
        StudyError: If one cannot be read, or they have different shapes.
    """
    one_IJK, other_IJK = (read_label_map(path).labels_IJK for path in (recorded, again))
    if one_IJK.shape != other_IJK.shape:
        found = f"has the shape {one_IJK.shape}, and made again {other_IJK.shape}"
        raise StudyError(recorded.name, found, "Use the version of Trivox that made it.")
    overlaps = {
        name: count_overlap(one_IJK == value, other_IJK == value) for name, value in labels.items()
    }
    return MaskComparison(
        same_bytes=recorded.read_bytes() == again.read_bytes(),
        num_voxels=one_IJK.size,
        num_foreground=int(np.count_nonzero((one_IJK > 0) | (other_IJK > 0))),
        num_differing=int(np.count_nonzero(one_IJK != other_IJK)),
        dice={
            name: dice(overlap) if overlap.num_prediction + overlap.num_reference else None
            for name, overlap in overlaps.items()
        },
    )
