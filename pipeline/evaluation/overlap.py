"""How much of two masks coincides: voxel counts, and the Dice and Jaccard indices read from them.

Axes: I, J, K = voxel axes; masks are boolean.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Overlap:
    """Voxel counts of a predicted and a reference mask.

    Attributes:
        num_prediction: Voxels in the prediction.
        num_reference: Voxels in the reference.
        num_both: Voxels in both.
    """

    num_prediction: int
    num_reference: int
    num_both: int


def count_overlap(
    prediction_IJK: npt.NDArray[np.bool_], reference_IJK: npt.NDArray[np.bool_]
) -> Overlap:
    """Count the voxels of two boolean masks of the same shape."""
    return Overlap(
        num_prediction=int(np.count_nonzero(prediction_IJK)),
        num_reference=int(np.count_nonzero(reference_IJK)),
        num_both=int(np.count_nonzero(prediction_IJK & reference_IJK)),
    )


def dice(overlap: Overlap) -> float:
    """Return twice the common voxels over the sum of both counts, 0 to 1.

    Two empty masks have no Dice index; `aggregate.py` states the rule for them.

    Raises:
        ZeroDivisionError: If both masks are empty.

    Source:
        Dice, Measures of the Amount of Ecologic Association Between Species, Ecology 26(3), 1945,
        doi:10.2307/1932409.
    """
    return 2 * overlap.num_both / (overlap.num_prediction + overlap.num_reference)


def iou(overlap: Overlap) -> float:
    """Return the common voxels over the voxels in either mask (Jaccard index), 0 to 1.

    Raises:
        ZeroDivisionError: If both masks are empty.
    """
    num_either = overlap.num_prediction + overlap.num_reference - overlap.num_both
    return overlap.num_both / num_either
