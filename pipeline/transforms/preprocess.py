"""From a study to the network's grid and scale: RAS, crop, spacing, intensity.

The same function serves training and inference, with settings that come from the model, so the two
cannot disagree.
"""

from dataclasses import dataclass

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms import NormalizeIntensity, Orientation, ScaleIntensityRange, SpatialResample
from monai.transforms.utils import generate_spatial_bounding_box

from pipeline.transforms.config import ChannelNormalisation, Preprocessing
from pipeline.transforms.placement import Box, Placement, place
from pipeline.transforms.resample import resample_labels
from pipeline.volume import Affine, Grid, LabelMap, Volume

AIR_HU = -500.0
"""Above this a CT voxel is taken for something other than air."""

RAS_LABELS = (("L", "R"), ("P", "A"), ("I", "S"))


@dataclass(frozen=True)
class Working:
    """A study as the network sees it.

    Attributes:
        data_CIJK: `(C, I, J, K)` float32 on the working grid, normalised.
        placement: Where the working grid lies in the study.
    """

    data_CIJK: torch.Tensor
    placement: Placement


def preprocess(volume: Volume, settings: Preprocessing) -> Working:
    """Bring a volume to the working grid and intensity scale.

    Args:
        volume: Channels in native voxel order, in their own units (HU for CT).
        settings: From the model, or settled on the training cases.

    Raises:
        ValueError: If the number of channels differs from that of `settings`.
    """
    if len(volume.data_CIJK) != len(settings.channels):
        raise ValueError(f"{len(volume.data_CIJK)} channels, settings {len(settings.channels)}")
    image = to_ras(torch.from_numpy(volume.data_CIJK), volume.affine)
    ras = Grid(tuple(image.shape[1:]), image.affine.numpy().astype(np.float64))
    box = foreground_box(image, ras, settings)
    placement = place(volume.grid, ras, box, settings.spacing_mm)
    cropped = image[:, *placement.crop].as_tensor()
    resampled = _resample(cropped, placement)
    for channel, normalisation in enumerate(settings.channels):
        resampled[channel] = normalise(resampled[channel], normalisation)
    return Working(resampled, placement)


def preprocess_labels(label_map: LabelMap, placement: Placement, values: list[int]) -> torch.Tensor:
    """Bring a label map to the working grid of its study, as class indices.

    Args:
        label_map: Labels on the study's own grid.
        placement: Of the study, from `preprocess`.
        values: Label value of each class index, background 0 first.

    Returns:
        `(I, J, K)` uint8 or int16 class indices.
    """
    index_of = np.zeros(int(label_map.labels_IJK.max(initial=0)) + 1, dtype=np.int16)
    for index, value in enumerate(values):
        if value < len(index_of):
            index_of[value] = index
    indices = torch.from_numpy(index_of[label_map.labels_IJK])
    ras_IJK = to_ras(indices[None], placement.native.affine).as_tensor()[0]
    positions = [axis.native_positions() for axis in placement.axes]
    working = resample_labels(ras_IJK[placement.crop], positions, len(values))
    return working.to(torch.uint8) if len(values) <= 256 else working


def to_ras(data_CIJK: torch.Tensor, affine: Affine) -> MetaTensor:
    """Permute and flip the axes of `(C, I, J, K)` data so that they run to R, A and S."""
    return Orientation(axcodes="RAS", labels=RAS_LABELS)(MetaTensor(data_CIJK, affine=affine))


def foreground_box(image_CIJK: torch.Tensor, ras: Grid, settings: Preprocessing) -> Box:
    """Bounding box of everything that is not surrounding air (CT) or zero (MR), with a margin.

    Only a box around all tissue is cut, never tissue inside it; the margin covers tissue that is as
    dark as air at the box's border (lung at the edge of a small field of view). A volume in which
    nothing is found keeps its whole extent.
    """
    is_ct = torch.tensor([channel.kind == "ct" for channel in settings.channels])
    threshold = torch.where(is_ct, AIR_HU, 0.0).reshape(-1, 1, 1, 1)

    def foreground(data: torch.Tensor) -> torch.Tensor:
        return torch.where(is_ct.reshape(-1, 1, 1, 1), data > threshold, data != 0)

    margin = [round(settings.crop_margin_mm / spacing) for spacing in ras.spacing_mm]
    start, stop = generate_spatial_bounding_box(
        image_CIJK, foreground, margin=margin, allow_smaller=False
    )
    if any(last <= first for first, last in zip(start, stop, strict=True)):
        start, stop = [0, 0, 0], list(ras.shape)
    i, j, k = (
        (max(0, int(first)), min(size, int(last)))
        for first, last, size in zip(start, stop, ras.shape, strict=True)
    )
    return i, j, k


def normalise(data_IJK: torch.Tensor, settings: ChannelNormalisation) -> torch.Tensor:
    """Bring one channel's intensities to the network's scale."""
    if settings.kind == "mr":
        return torch.as_tensor(NormalizeIntensity(nonzero=True)(data_IJK[None]))[0]
    low, high = ((edge - settings.mean) / settings.std for edge in (settings.low, settings.high))
    scale = ScaleIntensityRange(settings.low, settings.high, b_min=low, b_max=high, clip=True)
    return torch.as_tensor(scale(data_IJK[None]))[0]


def _resample(cropped_CIJK: torch.Tensor, placement: Placement) -> torch.Tensor:
    if all(axis.step == 1.0 for axis in placement.axes):
        return cropped_CIJK.clone()
    working = placement.working
    crop_affine = placement.ras.affine.copy()
    first = [start for start, _ in placement.box]
    crop_affine[:3, 3] += crop_affine[:3, :3] @ first
    resample = SpatialResample(mode="bilinear", padding_mode="border", align_corners=True)
    image = MetaTensor(cropped_CIJK, affine=crop_affine)
    resampled = resample(image, dst_affine=working.affine, spatial_size=working.shape)
    return torch.as_tensor(resampled).as_subclass(torch.Tensor).float()
