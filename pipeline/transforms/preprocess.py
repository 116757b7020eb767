"""From a study to the network's grid and scale: RAS, crop, spacing, intensity.

The same function serves training and inference, with settings that come from the model, so the two
cannot disagree.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms import NormalizeIntensity, Orientation
from monai.transforms.utils import generate_spatial_bounding_box

from pipeline.errors import StudyError
from pipeline.transforms.config import ChannelNormalisation, Preprocessing
from pipeline.transforms.placement import Box, Placement, place
from pipeline.transforms.resample import resample_labels, resample_linear, resample_nearest
from pipeline.volume import IGNORE_INDEX, Affine, Grid, LabelMap, Volume

AIR_HU = -500.0
"""Above this a CT voxel is taken for something other than air."""

MAX_WORKING_VOXELS = 2**30
"""Larger working volumes come from a wrong spacing."""

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


def preprocess(
    volume: Volume, settings: Preprocessing, *, max_voxels: int = MAX_WORKING_VOXELS
) -> Working:
    """Bring a volume to the working grid and intensity scale.

    Args:
        volume: Channels in native voxel order, in their own units (HU for CT).
        settings: From the model, or settled on the training cases.
        max_voxels: Largest working volume; checked before it is made.

    Returns:
        A copy; `volume` is not changed.

    Raises:
        StudyError: If the working volume would be larger than `max_voxels`.
        ValueError: If the number of channels differs from that of `settings`.
    """
    if len(volume.data_CIJK) != len(settings.channels):
        raise ValueError(f"{len(volume.data_CIJK)} channels, settings {len(settings.channels)}")
    image = to_ras(torch.from_numpy(volume.data_CIJK), volume.affine)
    ras = Grid(tuple(image.shape[1:]), image.affine.numpy().astype(np.float64))
    box = foreground_box(image, ras, settings)
    placement = place(volume.grid, ras, box, settings.spacing_mm)
    _check_size(placement, max_voxels)
    positions = placement.native_positions()
    cropped = image[:, *placement.crop].as_tensor()
    channels = [
        normalise(resample_linear(channel_IJK, positions), normalisation)
        for channel_IJK, normalisation in zip(cropped, settings.channels, strict=True)
    ]
    return Working(torch.stack(channels), placement)


def preprocess_labels(
    label_map: LabelMap,
    placement: Placement,
    values: Sequence[int],
    ignore_value: int | None = None,
) -> torch.Tensor:
    """Bring a label map to the working grid of its study, as class indices.

    Args:
        label_map: Labels on the study's own grid.
        placement: Of the study, from `preprocess`.
        values: Label value of each class index, background 0 first. Others become background.
        ignore_value: Label value of voxels that nobody annotated, if there are any.

    Returns:
        `(I, J, K)` int16 class indices; `IGNORE_INDEX` wherever the nearest voxel of the study is
        ignored. Ignored voxels speak for no class in those beside them.
    """
    # One row more than the largest value: all that lie above are clipped to it.
    index_of = np.zeros(max(values) + 2, dtype=np.int16)
    index_of[values] = range(len(values))
    indices = torch.from_numpy(index_of.take(label_map.labels_IJK, mode="clip"))
    if ignore_value is not None:
        indices[torch.from_numpy(label_map.labels_IJK == ignore_value)] = IGNORE_INDEX
    ras_IJK = to_ras(indices[None], placement.native.affine).as_tensor()[0][placement.crop]
    positions = placement.native_positions()
    working = resample_labels(ras_IJK, positions, len(values))
    if ignore_value is not None:
        working[resample_nearest(ras_IJK, positions) == IGNORE_INDEX] = IGNORE_INDEX
    return working


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
    is_ct_C111 = is_ct.reshape(-1, 1, 1, 1)

    def foreground(data_CIJK: torch.Tensor) -> torch.Tensor:
        return torch.where(is_ct_C111, data_CIJK > AIR_HU, data_CIJK != 0)

    margin = [math.ceil(settings.crop_margin_mm / spacing) for spacing in ras.spacing_mm]
    start, stop = generate_spatial_bounding_box(
        image_CIJK, foreground, margin=margin, allow_smaller=True
    )
    if not any(stop):
        start, stop = [0, 0, 0], ras.shape
    i, j, k = ((int(first), int(last)) for first, last in zip(start, stop, strict=True))
    return i, j, k


def normalise(data_IJK: torch.Tensor, settings: ChannelNormalisation) -> torch.Tensor:
    """Bring one channel's intensities to the network's scale, in a new tensor."""
    if settings.kind == "ct":
        return (data_IJK.clamp(settings.low, settings.high) - settings.mean) / settings.std
    # MONAI writes into what it is given.
    normalised_1IJK = NormalizeIntensity(nonzero=True)(data_IJK[None].clone())
    return torch.as_tensor(normalised_1IJK).as_subclass(torch.Tensor)[0]


def _check_size(placement: Placement, max_voxels: int) -> None:
    working = placement.working
    if working.num_voxels > max_voxels:
        native_mm, working_mm = (
            " x ".join(f"{spacing:.4g}" for spacing in grid.spacing_mm)
            for grid in (placement.ras, working)
        )
        raise StudyError(
            "the volume",
            f"{placement.ras.shape} voxels of {native_mm} mm (R x A x S) become "
            f"{working.num_voxels} of {working_mm} mm, but only {max_voxels} fit in memory",
            "Check the spacing in the header, crop the volume, or use a larger machine.",
        )
