"""How much two masks coincide, and how far apart their surfaces are.

The surface of a mask is the set of its voxels that have a face neighbour outside the mask; what
lies beyond the volume counts as outside, so a mask cut off by the field of view has a surface
there. Distances run between voxel centres, in mm, to the nearest surface voxel of the other mask.
These are the definitions of MONAI (`compute_hausdorff_distance(percentile=95)`,
`compute_average_surface_distance(symmetric=True)`, `compute_surface_dice`). The surface-distance
package differs: it places surface elements at voxel corners and weights them by area.

Grid axes are taken to be at right angles; rotation does not matter, shear is not corrected for.

Axes: I, J, K = voxel axes; N counts surface voxels. Masks are boolean.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.volume import Grid


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


ROUNDING_MM = 1e-4
"""Distances this little above a tolerance still count as within it, in mm.

Affines are stored as float32, so a 1 mm voxel may measure 1.0000001 mm; without this, every voxel
that is off by exactly one would flip from within 1 mm to beyond it.
"""


SHEARED_COSINE = 0.002
"""Of the angle between two voxel axes, beyond which they are not at right angles: 0.1 degrees."""


def largest_cosine(grid: Grid) -> float:
    """Return how far the voxel axes are from right angles: the largest cosine between two."""
    axes = grid.affine[:3, :3] / np.linalg.norm(grid.affine[:3, :3], axis=0)
    return float(np.abs(axes.T @ axes - np.eye(3)).max())


@dataclass(frozen=True)
class SurfaceDistances:
    """Distance from each surface voxel of one mask to the other mask's surface.

    Attributes:
        prediction_to_reference_mm: `(N,)`, one for each surface voxel of the prediction, in mm.
        reference_to_prediction_mm: `(N,)`, one for each surface voxel of the reference, in mm.
    """

    prediction_to_reference_mm: npt.NDArray[np.float64]
    reference_to_prediction_mm: npt.NDArray[np.float64]


def surface_mask(mask_IJK: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return the voxels of a boolean mask that have a face neighbour outside it."""
    inside: npt.NDArray[np.bool_] = ndimage.binary_erosion(mask_IJK)
    return mask_IJK & ~inside


def surface_distances(
    prediction_IJK: npt.NDArray[np.bool_],
    reference_IJK: npt.NDArray[np.bool_],
    spacing_mm: tuple[float, float, float],
) -> SurfaceDistances:
    """Measure the distances between the surfaces of two masks, both ways.

    Args:
        prediction_IJK: `(I, J, K)` boolean mask.
        reference_IJK: `(I, J, K)` boolean mask, on the same grid.
        spacing_mm: Distance between voxel centres along I, J, K, in mm.

    Raises:
        ValueError: If a mask is empty: it has no surface to measure to.
    """
    if not (prediction_IJK.any() and reference_IJK.any()):
        raise ValueError("An empty mask has no surface.")
    prediction = np.argwhere(surface_mask(prediction_IJK)) * np.asarray(spacing_mm)
    reference = np.argwhere(surface_mask(reference_IJK)) * np.asarray(spacing_mm)
    return SurfaceDistances(
        prediction_to_reference_mm=_nearest_mm(prediction, reference),
        reference_to_prediction_mm=_nearest_mm(reference, prediction),
    )


def hd95_mm(distances: SurfaceDistances) -> float:
    """Return the larger of the two directed 95th percentiles, in mm.

    Some tools take one percentile of both directions pooled, which is never larger.

    Source:
        Huttenlocher et al., Comparing Images Using the Hausdorff Distance, IEEE TPAMI 15(9), 1993,
        doi:10.1109/34.232073.
    """
    return float(
        max(
            np.percentile(distances.prediction_to_reference_mm, 95),
            np.percentile(distances.reference_to_prediction_mm, 95),
        )
    )


def assd_mm(distances: SurfaceDistances) -> float:
    """Return the mean distance over the surface voxels of both masks, in mm.

    Both directions are pooled, so the larger surface weighs more; some tools average the two
    directed means instead.
    """
    return float(_pooled_mm(distances).mean())


def nsd(distances: SurfaceDistances, tolerance_mm: float) -> float:
    """Return the share of both surfaces that lies within `tolerance_mm` of the other, 0 to 1.

    Source:
        Nikolov et al., Clinically Applicable Segmentation of Head and Neck Anatomy for
        Radiotherapy, JMIR 23(7), 2021, doi:10.2196/26151.
    """
    return float((_pooled_mm(distances) <= tolerance_mm + ROUNDING_MM).mean())


def _nearest_mm(
    from_mm: npt.NDArray[np.float64], to_mm: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    # A tree over the surface is several times faster than a distance transform of the whole box;
    # large leaves suit a tree that is asked once.
    from scipy.spatial import KDTree

    distances_mm, _ = KDTree(to_mm, leafsize=32).query(from_mm)
    return np.asarray(distances_mm)


def _pooled_mm(distances: SurfaceDistances) -> npt.NDArray[np.float64]:
    return np.concatenate(
        [distances.prediction_to_reference_mm, distances.reference_to_prediction_mm]
    )
