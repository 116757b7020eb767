"""Clean-up of components after the network, as a MONAI transform."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms import MapTransform

from pipeline.postprocessing.keep import Keep, keep_components
from pipeline.volume import Grid


class KeepComponentsd(MapTransform):  # type: ignore[misc]
    """Set to background the components of label maps that the rules do not keep.

    Args:
        keys: Of the label maps, `(1, I, J, K)` with an affine.
        rules: One a label, with `value`, `keep_largest` and `min_volume_mm3`.
    """

    def __init__(
        self,
        keys: Any,  # noqa: ANN401
        rules: Sequence[Mapping[str, Any]],
    ) -> None:
        super().__init__(keys)
        self._rules = {
            int(rule["value"]): Keep(rule["keep_largest"], rule["min_volume_mm3"]) for rule in rules
        }

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return `data` with cleaned label maps."""
        result = dict(data)
        for key in self.key_iterator(result):
            labels = result[key]
            labels_IJK = labels.as_tensor()[0].numpy()
            i, j, k = labels_IJK.shape
            grid = Grid((i, j, k), np.asarray(labels.affine, dtype=np.float64))
            cleaned_IJK = keep_components(labels_IJK, self._rules, grid.voxel_volume_mm3)
            result[key] = MetaTensor(torch.from_numpy(cleaned_IJK)[None], meta=labels.meta)
        return result
