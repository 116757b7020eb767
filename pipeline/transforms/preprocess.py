"""From a study to the network's grid and scale: RAS, crop, spacing, intensity.

The same function serves training and inference, with settings that come from the model, so the two
cannot disagree.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from pipeline.errors import StudyError
from pipeline.transforms.config import ChannelNormalisation, Preprocessing
from pipeline.transforms.foreground import Shadows, find_foreground
from pipeline.transforms.labels import resample_labels
from pipeline.transforms.orientation import ras_grid, ras_view
from pipeline.transforms.percentiles import scale_percentiles, zscore_robust
from pipeline.transforms.placement import Placement, place
from pipeline.transforms.resample import resample_nearest, resample_view, resample_view_on
from pipeline.transforms.transfer import upload
from pipeline.volume import IGNORE_INDEX, Affine, LabelMap, Volume

if TYPE_CHECKING:
    from monai.data.meta_tensor import MetaTensor

MAX_WORKING_VOXELS = 2**30
"""Larger working volumes come from a wrong spacing."""

CPU = torch.device("cpu")

VOXEL_BY_VOXEL = ("ct", "rgb_0_1", "none")
"""Normalisations that look at one voxel at a time."""

RAS_LABELS = (("L", "R"), ("P", "A"), ("I", "S"))


@dataclass(frozen=True)
class Working:
    """A study as the network sees it.

    Attributes:
        data_CIJK: `(C, I, J, K)` float32 on the working grid, normalised.
        placement: Where the working grid lies in the study.
        shadows: Of everything but surrounding air, along each axis, as `Foreground` has them.
    """

    data_CIJK: torch.Tensor
    placement: Placement
    shadows: Shadows


def preprocess(
    volume: Volume,
    settings: Preprocessing,
    *,
    max_voxels: int = MAX_WORKING_VOXELS,
    device: torch.device = CPU,
) -> Working:
    """Bring a volume to the working grid and intensity scale.

    Args:
        volume: Channels in native voxel order, in their own units (HU for CT).
        settings: From the model, or settled on the training cases.
        max_voxels: Largest working volume; checked before it is made.
        device: To resample on, which the working volume stays on; see `resample_view_on` for how
            far it may be from the CPU's. What surrounds the tissue is found on the CPU.

    Returns:
        A copy; `volume` is not changed.

    Raises:
        StudyError: If the working volume would be larger than `max_voxels`.
        ValueError: If the number of channels differs from that of `settings`.
    """
    if len(volume.data_CIJK) != len(settings.channels):
        raise ValueError(f"{len(volume.data_CIJK)} channels, settings {len(settings.channels)}")
    ras = ras_grid(volume.grid)
    views = [ras_view(channel_IJK, volume.affine) for channel_IJK in volume.data_CIJK]
    foreground = find_foreground(views, ras, settings)
    placement = place(volume.grid, ras, foreground.box, settings.spacing_mm)
    _check_size(placement, max_voxels)
    positions = placement.native_positions()
    channels = [
        _working_channel(view_IJK[placement.crop], positions, normalisation, device)
        for view_IJK, normalisation in zip(views, settings.channels, strict=True)
    ]
    return Working(torch.stack(channels), placement, foreground.on_working_grid(placement.axes))


def _working_channel(
    view_IJK: npt.NDArray[np.float32],
    positions: Sequence[torch.Tensor],
    settings: ChannelNormalisation,
    device: torch.device,
) -> torch.Tensor:
    if device.type == "cpu":
        return normalise(resample_view(view_IJK, positions), settings)
    data_IJK = resample_view_on(view_IJK, positions, device)
    if settings.kind in VOXEL_BY_VOXEL:
        return normalise(data_IJK, settings)
    # Means and percentiles of the whole are those of the CPU.
    return upload(normalise(data_IJK.cpu(), settings), device)


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


def to_ras(data_CIJK: torch.Tensor, affine: Affine) -> "MetaTensor":
    """Permute and flip the axes of `(C, I, J, K)` data so that they run to R, A and S."""
    from monai.data.meta_tensor import MetaTensor
    from monai.transforms import Orientation

    return Orientation(axcodes="RAS", labels=RAS_LABELS)(MetaTensor(data_CIJK, affine=affine))


def normalise(data_IJK: torch.Tensor, settings: ChannelNormalisation) -> torch.Tensor:
    """Bring one channel's intensities to the network's scale, in a new tensor."""
    from monai.transforms import NormalizeIntensity, ScaleIntensity

    match settings.kind:
        case "ct":
            return (data_IJK.clamp(settings.low, settings.high) - settings.mean) / settings.std
        case "zscore_robust":
            return zscore_robust(data_IJK)
        case "percentile":
            return scale_percentiles(data_IJK)
        case "rgb_0_1":
            return data_IJK / 255
        case "none":
            return data_IJK.clone()
        case "rescale_0_1":
            scale = ScaleIntensity()
        case "zscore" | "zscore_nonzero":
            scale = NormalizeIntensity(nonzero=settings.kind == "zscore_nonzero")
    # MONAI writes into what it is given.
    return torch.as_tensor(scale(data_IJK[None].clone())).as_subclass(torch.Tensor)[0]


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
