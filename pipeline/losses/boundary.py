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
    masks_BCIJK = comparison.is_true_BCIJK[:, first:].cpu().numpy()
    distance_BCIJK = np.stack(
        [[signed_distance_mm(mask, spacing_mm) for mask in masks] for masks in masks_BCIJK]
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
