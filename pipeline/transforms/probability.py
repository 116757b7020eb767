"""What the way back takes and what it may hand on: probabilities, a part of the volume at a time.

Axes: C = classes or regions, I, J, K = voxel axes.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from pipeline.volume import Slices


@dataclass(frozen=True)
class ProbabilityBlock:
    """Finished probabilities of a box of working voxels.

    Attributes:
        values_CIJK: `(C, i, j, k)`, of any floating type. Along an axis on which the box does not
            begin at the volume's border, it begins with the last voxel of the box before it.
        start: Working index of the first voxel along each axis.
    """

    values_CIJK: torch.Tensor
    start: tuple[int, int, int]


class ProbabilitySink(Protocol):
    """Takes the probabilities of classes or regions on the study's own grid, part by part."""

    def put(self, index: int, box: Slices, steps_IJK: npt.NDArray[np.uint8] | int) -> None:
        """Take a part of one output's probabilities; what is never put is 0.

        Args:
            index: Of the class (background is 0) or the region.
            box: Where the part lies, in voxels of the study's file.
            steps_IJK: Multiples of 1 / `PROBABILITY_STEPS` in the file's voxel order, or the same
                one for the whole box.
        """
