"""At most one component of a label on each side of the patient, such as one kidney.

The sides are those of the patient, whatever the order of the voxels. They are told apart by the
plane x = constant (RAS+ mm) half-way between the two ends of all that is labelled: of the bounding
boxes, along the voxel axes, of all components that have at least a tenth of the voxels of their
label's largest one, so that stray specks do not move it. A component lies on the side of its
centroid.

Where the labels lie on one side only (one kidney was removed and nothing else is labelled), the
plane runs through that organ, and a stray piece beyond it is kept as that of the other side. A
label that fills the body, or organs of both sides, prevents that.

Axes: N counts components.
"""

import numpy as np
import numpy.typing as npt

from pipeline.postprocessing.components import Components, Indices
from pipeline.volume import Grid

SUBSTANTIAL_SHARE = 0.1
"""Of its label's largest component: what a component needs to help place the plane."""


def largest_of_each_side(
    found: Components, among: Indices, kept_N: npt.NDArray[np.bool_], grid: Grid
) -> Indices:
    """Return the largest of some components on the left, and that on the right.

    Args:
        found: The components of all labels.
        among: The components asked for; of one label.
        kept_N: `(N,)` marks the components that are still there; they place the plane.
        grid: Where the voxels lie.
    """
    towards_right, origin = grid.affine[0, :3], grid.affine[0, 3]
    x_mm = found.centroid_N3[among] @ towards_right + origin
    is_left = x_mm < mid_plane_mm(found, kept_N, grid)
    sides = (among[is_left], among[~is_left])
    return np.concatenate([found.largest(side, 1) for side in sides])


def mid_plane_mm(found: Components, kept_N: npt.NDArray[np.bool_], grid: Grid) -> float:
    """Return the x (RAS+ mm) of the plane between the patient's sides."""
    sizes = np.where(kept_N, found.num_voxels_N, 0)
    sizes[0] = 0
    largest = np.zeros(int(found.label_N.max()) + 1, np.int64)
    np.maximum.at(largest, found.label_N, sizes)
    counts_N = (sizes > 0) & (sizes >= SUBSTANTIAL_SHARE * largest[found.label_N])
    towards_right, origin = grid.affine[0, :3], grid.affine[0, 3]
    ends = np.stack([found.first_N3[counts_N], found.last_N3[counts_N]]) * towards_right
    lowest = ends.min(axis=0).sum(axis=1).min()
    highest = ends.max(axis=0).sum(axis=1).max()
    return float((lowest + highest) / 2 + origin)
