"""The box around everything in a study that is not surrounding air.

The same box as that of `pipeline.transforms`, which is written for the settings of a model.

Axes: C = channels, I, J, K = voxel axes in RAS order.
"""

import math
from collections.abc import Sequence

import torch
from monai.transforms.utils import generate_spatial_bounding_box

from pipeline.transforms.placement import Box
from pipeline.volume import Grid

AIR_HU = -500.0
"""Above this a CT voxel is taken for something other than air."""


def box_of_foreground(
    image_CIJK: torch.Tensor, ras: Grid, is_ct: Sequence[bool], margin_mm: float
) -> Box:
    """Bounding box of everything that is not surrounding air (CT) or zero (MR), with a margin.

    Only a box around all tissue is cut, never tissue inside it; the margin covers tissue that is as
    dark as air at the box's border (lung at the edge of a small field of view). A volume in which
    nothing is found keeps its whole extent.

    Args:
        image_CIJK: `(C, I, J, K)` in their own units (HU for CT).
        ras: Their grid.
        is_ct: Of each channel.
        margin_mm: Kept around the foreground; rounded up to whole voxels.
    """
    is_ct_C111 = torch.tensor(is_ct).reshape(-1, 1, 1, 1)

    def foreground(data_CIJK: torch.Tensor) -> torch.Tensor:
        return torch.where(is_ct_C111, data_CIJK > AIR_HU, data_CIJK != 0)

    margin = [math.ceil(margin_mm / spacing) for spacing in ras.spacing_mm]
    start, stop = generate_spatial_bounding_box(
        image_CIJK, foreground, margin=margin, allow_smaller=True
    )
    if not any(stop):
        start, stop = [0, 0, 0], ras.shape
    i, j, k = ((int(first), int(last)) for first, last in zip(start, stop, strict=True))
    return i, j, k
