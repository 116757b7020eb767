"""To the network's grid and back, as MONAI transforms: crop, spacing; probabilities to labels.

MONAI's `Spacing` keeps a corner of the volume where Trivox keeps the centre of the crop, and its
`CropForeground` counts its margin in voxels, the same for all studies.

Axes: C = channels or outputs, I, J, K = voxel axes, of the working grid or in RAS order.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms import MapTransform

from pipeline.export.scripts.foreground import box_of_foreground
from pipeline.export.scripts.writer import HEADER
from pipeline.transforms.placement import Placement, place
from pipeline.transforms.resample import resample_linear, resample_nearest
from pipeline.volume import Grid

REGION_THRESHOLD = 0.5
PLACEMENT = "placement"
"""Under this key of an image's metadata lies what the way back needs."""


class ToWorkingGridd(MapTransform):  # type: ignore[misc]
    """Crop images in RAS order to the foreground, and bring them to the working spacing.

    Args:
        keys: Of the images.
        spacing_mm: Along R, A, S.
        crop_margin_mm: Kept around the foreground.
        is_ct: Of each channel.
    """

    def __init__(
        self,
        keys: Any,  # noqa: ANN401
        spacing_mm: Sequence[float],
        crop_margin_mm: float,
        is_ct: Sequence[bool],
    ) -> None:
        super().__init__(keys)
        i, j, k = spacing_mm
        self._spacing_mm = (i, j, k)
        self._crop_margin_mm = crop_margin_mm
        self._is_ct = list(is_ct)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return `data` with the images on their working grids."""
        return {**data, **{key: self._place(data[key]) for key in self.key_iterator(dict(data))}}

    def _place(self, image_CIJK: MetaTensor) -> MetaTensor:
        meta = image_CIJK.meta
        ras = _grid(image_CIJK.shape[1:], image_CIJK.affine)
        box = box_of_foreground(image_CIJK, ras, self._is_ct, self._crop_margin_mm)
        native = _grid(meta["spatial_shape"], meta["original_affine"])
        placement = place(native, ras, box, self._spacing_mm)
        cropped_CIJK = image_CIJK.as_tensor()[:, *placement.crop]
        positions = placement.native_positions()
        working = [resample_linear(channel_IJK, positions) for channel_IJK in cropped_CIJK]
        kept = {
            "ras_shape": np.array(ras.shape),
            "ras_affine": ras.affine,
            "box": np.array(box),
            "spacing_mm": np.array(self._spacing_mm),
        }
        meta = {**meta, "affine": torch.from_numpy(placement.working.affine), PLACEMENT: kept}
        return MetaTensor(torch.stack(working), meta=meta)


class ToStudyGridd(MapTransform):  # type: ignore[misc]
    """Bring probabilities back to the study's own grid and voxel order, as labels.

    Args:
        keys: Of the probabilities.
        image: Key of the image that they were made from.
        values: Label value of each class, background first; or that each region writes.
        regions: Whether the outputs are regions, which may overlap: each writes its value where its
            probability is above a half, later ones over earlier ones. Otherwise the most probable
            class wins. On a tie the nearest working voxel decides.
    """

    def __init__(
        self,
        keys: Any,  # noqa: ANN401
        image: str,
        values: Sequence[int],
        regions: bool,  # noqa: FBT001
    ) -> None:
        super().__init__(keys)
        self._image = image
        self._values = list(values)
        self._decide = _decide_regions if regions else _decide_labels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return `data` with labels in the place of probabilities."""
        placement = _placement_of(data[self._image])
        result = dict(data)
        for key in self.key_iterator(result):
            cropped_IJK = self._decide(torch.as_tensor(data[key]), placement, self._values)
            whole_IJK = _uncrop(cropped_IJK.cpu(), placement)
            of_image = data[self._image].meta
            meta = {name: of_image[name] for name in ("filename_or_obj", HEADER)}
            result[key] = MetaTensor(
                torch.from_numpy(whole_IJK)[None], placement.native.affine, meta=meta
            )
        return result


def _decide_labels(
    probability_CIJK: torch.Tensor, placement: Placement, values: Sequence[int]
) -> torch.Tensor:
    positions = placement.working_positions()
    best_IJK = resample_linear(_plain(probability_CIJK[0]), positions)
    label_IJK = torch.full(best_IJK.shape, values[0], dtype=torch.int32, device=best_IJK.device)
    last_IJK = label_IJK.clone()
    for value, probability_IJK in zip(values[1:], probability_CIJK[1:], strict=True):
        share_IJK = resample_linear(_plain(probability_IJK), positions)
        label_IJK[share_IJK > best_IJK] = value
        last_IJK[share_IJK >= best_IJK] = value
        best_IJK = torch.maximum(best_IJK, share_IJK)
    table = torch.tensor(values, dtype=torch.int32, device=label_IJK.device)
    most_probable_IJK = table[probability_CIJK.as_subclass(torch.Tensor).argmax(dim=0)]
    return _settle(label_IJK, last_IJK, resample_nearest(most_probable_IJK, positions))


def _decide_regions(
    probability_CIJK: torch.Tensor, placement: Placement, values: Sequence[int]
) -> torch.Tensor:
    positions = placement.working_positions()
    shape = [len(of_axis) for of_axis in positions]
    label_IJK = torch.zeros(shape, dtype=torch.int32, device=probability_CIJK.device)
    last_IJK = label_IJK.clone()
    nearest_IJK = label_IJK.clone()
    for value, probability_IJK in zip(values, probability_CIJK, strict=True):
        share_IJK = resample_linear(_plain(probability_IJK), positions)
        label_IJK[share_IJK > REGION_THRESHOLD] = value
        last_IJK[share_IJK >= REGION_THRESHOLD] = value
        nearest_IJK[resample_nearest(_plain(probability_IJK), positions) > REGION_THRESHOLD] = value
    return _settle(label_IJK, last_IJK, nearest_IJK)


def _settle(
    first_IJK: torch.Tensor, last_IJK: torch.Tensor, nearest_IJK: torch.Tensor
) -> torch.Tensor:
    """Choose between the first and the last of equal outputs, as the nearest voxel has it."""
    return torch.where(nearest_IJK == last_IJK, last_IJK, first_IJK)


def _plain(probability_IJK: torch.Tensor) -> torch.Tensor:
    return probability_IJK.as_subclass(torch.Tensor).float()


def _uncrop(cropped_IJK: torch.Tensor, placement: Placement) -> npt.NDArray[np.int32]:
    """Put labels of the crop into the study's whole extent, in the voxel order of its file."""
    whole_IJK = np.zeros(placement.ras.shape, np.int32)
    whole_IJK[placement.crop] = cropped_IJK.numpy()
    to_ras = nib.io_orientation(placement.native.affine)
    to_native = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), to_ras)
    native_IJK = nib.orientations.apply_orientation(whole_IJK, to_native)
    return np.ascontiguousarray(native_IJK)


def _placement_of(image: MetaTensor) -> Placement:
    """Work out again what the way in did."""
    meta = image.meta
    kept = {key: np.asarray(value) for key, value in meta[PLACEMENT].items()}
    i, j, k = ((int(first), int(last)) for first, last in kept["box"])
    native = _grid(meta["spatial_shape"], meta["original_affine"])
    ras = _grid(kept["ras_shape"], kept["ras_affine"])
    r, a, s = (float(spacing) for spacing in kept["spacing_mm"])
    return place(native, ras, (i, j, k), (r, a, s))


def _grid(shape: Any, affine: Any) -> Grid:  # noqa: ANN401
    i, j, k = (int(size) for size in shape)
    return Grid((i, j, k), np.asarray(affine, dtype=np.float64))
