"""A loss that knows how far from the true border an error lies.

Axes: B = patch, C = class or region, I, J, K = voxel axes.
"""

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from pipeline.losses.comparison import Comparison

Spacing = tuple[float, float, float]


def boundary_loss(comparison: Comparison, spacing_mm: Spacing) -> torch.Tensor:
    """Return the mean over voxels of probability times signed distance to the border, in mm.

    Probability outside of a structure costs its distance from it, and probability inside earns its
    distance from the border; so the least value is below 0. Background is left out, as is a class
    in a patch that it is absent from or fills. Ignored voxels count as outside when distances are
    measured, and do not count themselves.

    Args:
        comparison: Of a batch.
        spacing_mm: Distance between voxels along I, J, K.

    Source:
        Kervadec et al., Boundary loss for highly unbalanced segmentation, 2019; Medical Image
        Analysis 67, 2021, doi:10.1016/j.media.2020.101851.
    """
    first = int(comparison.has_background)
    probability_BCIJK = comparison.probability_BCIJK[:, first:]
    masks_BCIJK = comparison.is_true_BCIJK[:, first:]
    if masks_BCIJK.is_cuda:
        distance = signed_distances_mm(masks_BCIJK, spacing_mm)
    else:
        distance_BCIJK = np.stack(
            [
                [signed_distance_mm(mask_IJK.numpy(), spacing_mm) for mask_IJK in masks_CIJK]
                for masks_CIJK in masks_BCIJK
            ]
        )
        distance = torch.from_numpy(distance_BCIJK).to(probability_BCIJK)
    counts_BCIJK = comparison.counts_BXIJK.expand_as(probability_BCIJK)
    return (probability_BCIJK * distance).sum() / counts_BCIJK.sum().clamp(min=1)


def signed_distance_mm(
    mask_IJK: npt.NDArray[np.bool_], spacing_mm: Spacing
) -> npt.NDArray[np.float64]:
    """Return each voxel's distance to the nearest voxel of the other side, negative inside, in mm.

    All 0 where one of the sides is empty.
    """
    if mask_IJK.all() or not mask_IJK.any():
        return np.zeros(mask_IJK.shape)
    outside = ndimage.distance_transform_edt(~mask_IJK, spacing_mm)
    inside = ndimage.distance_transform_edt(mask_IJK, spacing_mm)
    return np.asarray(outside - inside, dtype=np.float64)


def signed_distances_mm(masks_BCIJK: torch.Tensor, spacing_mm: Spacing) -> torch.Tensor:
    """Do what `signed_distance_mm` does for many masks, where they are; for GPUs, float32.

    Exact to the rounding of float32. One axis after the other: the least, over all voxels of a
    row, of what they have so far plus the square of their distance along the row. That is far more
    arithmetic than on a CPU, which a GPU does in less time than it takes to bring the masks there.

    Source:
        Felzenszwalb and Huttenlocher, Distance Transforms of Sampled Functions, Theory of Computing
        8, 2012, doi:10.4086/toc.2012.v008a019; the sums over rows without their lower envelopes.
    """
    # Distances to what is inside, then to what is outside.
    sides_2BCIJK = torch.stack([masks_BCIJK, ~masks_BCIJK])
    squared = torch.where(sides_2BCIJK, 0.0, torch.inf)
    for axis, mm in enumerate(spacing_mm, start=-3):
        number = squared.shape[axis]
        along = torch.arange(number, dtype=torch.float32, device=squared.device)
        along = along.reshape(-1, *[1] * (-axis - 1))
        nearest = [(squared + ((along - n) * mm) ** 2).amin(axis) for n in range(number)]
        squared = torch.stack(nearest, dim=axis)
    outside, inside = squared.sqrt()
    is_mixed = sides_2BCIJK.flatten(3).any(dim=3).all(dim=0)[..., None, None, None]
    return torch.where(is_mixed, outside - inside, 0.0)
