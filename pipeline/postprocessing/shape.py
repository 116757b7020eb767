"""What a rule does to one label: a piece on each side, holes filled, gaps closed.

The sides are those of the patient, whatever the order of the voxels. They are told apart by the
plane x = constant (RAS+ mm) half-way between the two ends of all that is labelled: of the bounding
boxes, along the voxel axes, of all components that have at least a tenth of the voxels of their
label's largest one, so that stray specks do not move it. A component lies on the side of its
centroid.

Where the labels lie on one side only (one kidney was removed and nothing else is labelled), the
plane runs through that organ, and a stray piece beyond it is kept as that of the other side. A
label that fills the body, or organs of both sides, prevents that.

Axes: N counts components.

All take a label's voxels only from background or leave them to it; other labels stay as they are.

Axes: I, J, K = voxel axes.
"""

import math

import cc3d
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.postprocessing.components import Components, Indices
from pipeline.postprocessing.config import Holes
from pipeline.volume import Grid, Slices

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


FACES = {3: 6, 2: 4}
"""Connectivity of background by number of axes: a hole is closed where only corners meet."""

DISTANCE_ROUNDING = 1e-5
"""Relative excess of a distance that is put down to rounding: distances are float32."""

SMOOTHING_REACH = 3.0
"""Standard deviations beyond which a Gaussian is cut off."""

UNDECIDED = 1e-6
"""Smaller balances between a label and background are rounding: the voxel stays as it is."""

_ACROSS = {"axial": "SI", "coronal": "AP", "sagittal": "RL"}

Labels = npt.NDArray[np.unsignedinteger]
Mask = npt.NDArray[np.bool_]


def fill_holes(labels_IJK: Labels, box: Slices, value: int, holes: Holes, grid: Grid) -> None:
    """Give a label, in place, the background that it encloses.

    Background is enclosed if no way leads from it, through the faces of voxels that are not of
    this label, to the border of the box around the label. What lies beyond the volume's border
    counts as not enclosed. Slices are those of the voxel axis nearest to the plane's normal.

    Args:
        labels_IJK: `(I, J, K)` label map.
        box: Around the label.
        value: Of the label.
        holes: In the volume, or in each slice of which plane.
        grid: Where the voxels lie.
    """
    part_IJK = labels_IJK[box]
    mask_IJK = part_IJK == value
    if holes == "3d":
        enclosed_IJK = _enclosed(mask_IJK)
    else:
        axis = next(n for n, code in enumerate(grid.axis_codes) if code in _ACROSS[holes])
        slices = [_enclosed(mask) for mask in np.moveaxis(mask_IJK, axis, 0)]
        enclosed_IJK = np.stack(slices, axis=axis)
    part_IJK[enclosed_IJK & (part_IJK == 0)] = value


def close_gaps(labels_IJK: Labels, box: Slices, value: int, radius_mm: float, grid: Grid) -> None:
    """Give a label, in place, the background that no ball outside of the label reaches.

    This is a morphological closing by a ball of mm: an ellipsoid of voxels. Beyond the volume's
    border there is background.

    Args:
        labels_IJK: `(I, J, K)` label map.
        box: Around the label.
        value: Of the label.
        radius_mm: Of the ball.
        grid: Where the voxels lie; its axes are taken to be at right angles.
    """
    part_IJK = labels_IJK[box]
    margins = [math.floor(radius_mm / spacing) + 2 for spacing in grid.spacing_mm]
    mask_IJK = np.pad(part_IJK == value, [(margin, margin) for margin in margins])
    near_IJK = _within(mask_IJK, radius_mm, grid.spacing_mm)
    closed_IJK = ~_within(~near_IJK, radius_mm, grid.spacing_mm)
    inner = tuple(slice(margin, -margin) for margin in margins)
    part_IJK[closed_IJK[inner] & (part_IJK == 0)] = value


def smooth_surface(
    labels_IJK: Labels,
    box: Slices,
    value: int,
    sigma_mm: float,
    grid: Grid,
    before_IJK: Labels | None = None,
) -> None:
    """Smooth, in place, the surface between a label and background.

    A voxel of either goes to the one that has more weight around it, by a Gaussian of mm. Other
    labels, and what lies beyond the volume's border, have no weight and stay as they are: where the
    label borders on them its surface does not move.

    Args:
        labels_IJK: `(I, J, K)` label map.
        box: Around the label.
        value: Of the label.
        sigma_mm: Standard deviation.
        grid: Where the voxels lie; its axes are taken to be at right angles.
        before_IJK: `(I, J, K)` label map before other labels were smoothed, if any were: what
            they left or took meanwhile is not to be taken.
    """
    sigmas = [sigma_mm / spacing for spacing in grid.spacing_mm]
    reaches = [math.ceil(SMOOTHING_REACH * sigma) for sigma in sigmas]
    # A voxel may be gained at one reach from the label, and looks one reach further.
    i, j, k = (
        slice(max(along.start - 2 * reach, 0), along.stop + 2 * reach)
        for along, reach in zip(box, reaches, strict=True)
    )
    part_IJK = labels_IJK[i, j, k]
    seen_IJK = part_IJK if before_IJK is None else before_IJK[i, j, k]
    was_background_IJK = seen_IJK == 0
    balance_IJK = (seen_IJK == value).astype(np.float32)
    balance_IJK -= was_background_IJK
    balance_IJK = ndimage.gaussian_filter(balance_IJK, sigmas, mode="constant", radius=reaches)
    part_IJK[(balance_IJK > UNDECIDED) & was_background_IJK & (part_IJK == 0)] = value
    part_IJK[(balance_IJK < -UNDECIDED) & (part_IJK == value)] = 0


def _enclosed(mask: Mask) -> Mask:
    """Return the holes of a mask of two or three axes."""
    # As uint8: cc3d 4.1.1 fails on booleans one voxel wide, such as [1, 0, 1].
    outside = (~np.pad(mask, 1)).view(np.uint8)
    regions = cc3d.connected_components(outside, connectivity=FACES[mask.ndim])
    inner = regions[(slice(1, -1),) * mask.ndim]
    return np.asarray((inner != 0) & (inner != regions.flat[0]))


def _within(mask_IJK: Mask, radius_mm: float, spacing_mm: tuple[float, float, float]) -> Mask:
    """Return the voxels whose centres lie at most `radius_mm` from that of a voxel of the mask."""
    farthest_mm = radius_mm * (1 + DISTANCE_ROUNDING)
    try:
        import SimpleITK
    except ModuleNotFoundError:
        # Slower, and three times the memory.
        if not mask_IJK.any():
            return np.zeros_like(mask_IJK)
        return np.asarray(ndimage.distance_transform_edt(~mask_IJK, spacing_mm) <= farthest_mm)
    image = SimpleITK.GetImageFromArray(mask_IJK.view(np.uint8))
    # SimpleITK counts axes from the last of the array.
    image.SetSpacing(spacing_mm[::-1])
    squares = SimpleITK.SignedMaurerDistanceMap(
        image, insideIsPositive=False, squaredDistance=True, useImageSpacing=True
    )
    return np.asarray(SimpleITK.GetArrayViewFromImage(squares) <= farthest_mm**2)
