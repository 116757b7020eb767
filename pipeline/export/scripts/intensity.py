"""Normalisation by percentiles, as MONAI transforms."""

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms import MapTransform

from pipeline.transforms.percentiles import scale_percentiles, zscore_robust


class ScaleByPercentilesd(MapTransform):  # type: ignore[misc]
    """Normalise images of one channel.

    Args:
        keys: Of the images, `(1, I, J, K)`.
        robust: Whether to take the z-score by the bulk of the voxels that are not 0, or to bring
            the percentiles of all voxels to 0 and 1.
    """

    def __init__(
        self,
        keys: Any,  # noqa: ANN401
        robust: bool,  # noqa: FBT001
    ) -> None:
        super().__init__(keys)
        self._scale = zscore_robust if robust else scale_percentiles

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return `data` with normalised images."""
        result = dict(data)
        for key in self.key_iterator(result):
            image_1IJK = result[key]
            scaled_IJK = self._scale(torch.as_tensor(image_1IJK).as_subclass(torch.Tensor)[0])
            result[key] = MetaTensor(scaled_IJK[None], meta=image_1IJK.meta)
        return result
