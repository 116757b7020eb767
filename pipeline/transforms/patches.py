"""Training patches: chosen so that rare classes are seen, and a pure function of seed and index.

The n-th patch depends on nothing but the seed, n and the cached cases. So a resumed run draws the
very patches that the interrupted one would have drawn, however many workers load them, and no
random state has to be saved.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from monai.transforms import Compose
from torch.utils.data import Dataset

from pipeline.transforms.cache import CachedCase

Size = tuple[int, int, int]


class PatchDataset(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """The endless sequence of training patches.

    Args:
        cases: Preprocessed cases.
        patch_size: Size along I, J, K in working voxels.
        region_scale: Cut a region at least this much larger than the patch, so that rotated and
            scaled patches show tissue and not padding.
        augmentation: Takes and gives `{"image", "label"}`; see `build_augmentation`.
        foreground_share: Share of patches placed on a foreground voxel, of a class drawn evenly
            from those that the case has; the others lie anywhere.
        seed: Of everything random here.
    """

    def __init__(
        self,
        cases: Sequence[CachedCase],
        patch_size: Size,
        *,
        region_scale: float,
        augmentation: Compose,
        foreground_share: float,
        seed: int,
    ) -> None:
        if not cases:
            raise ValueError("no cases to draw patches from")
        self._cases = cases
        self._patch_size = patch_size
        self._margin = [math.ceil(n * (region_scale - 1) / 2) for n in patch_size]
        self._augmentation = augmentation
        self._foreground_share = foreground_share
        self._seed = seed

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the `index`-th patch: image `(C, I, J, K)` float32, label `(I, J, K)` int64."""
        rng = np.random.default_rng([self._seed, index])
        case = self._case_of(index)
        image, label = case.image(), case.label()
        start = self._choose_start(case.locations(), label.shape, rng)
        first = [s - m for s, m in zip(start, self._margin, strict=True)]
        size = [n + 2 * m for n, m in zip(self._patch_size, self._margin, strict=True)]
        region = {
            "image": torch.from_numpy(cut(image, first, size)),
            "label": torch.from_numpy(cut(label[None], first, size)),
        }
        self._augmentation.set_random_state(seed=int(rng.integers(2**32 - 1)))
        patch = self._augmentation(region)
        # MONAI gives tensors with a history, which loaders would collect.
        patch_CIJK, label_1IJK = (patch[key].as_subclass(torch.Tensor) for key in region)
        return patch_CIJK.float(), label_1IJK[0].long()

    def _case_of(self, index: int) -> CachedCase:
        """Every case once, in an order shuffled anew for each round."""
        round_index, position = divmod(index, len(self._cases))
        # The 1 sets this stream apart from that of a patch: numpy reads [a, b] as [a, b, 0].
        rng = np.random.default_rng([self._seed, round_index, 1])
        return self._cases[int(rng.permutation(len(self._cases))[position])]

    def _choose_start(
        self,
        locations: npt.NDArray[np.int32],
        shape: tuple[int, ...],
        rng: np.random.Generator,
    ) -> list[int]:
        size = np.asarray(self._patch_size)
        if len(locations) and rng.random() < self._foreground_share:
            classes = np.unique(locations[:, 0])
            of_class = locations[locations[:, 0] == rng.choice(classes)]
            voxel = of_class[rng.integers(len(of_class)), 1:]
            # The voxel lies somewhere in the middle half of the patch, not always at its centre.
            start = voxel - rng.integers(size // 4, size - size // 4)
        else:
            start = rng.integers(0, np.maximum(np.asarray(shape) - size, 0) + 1)
        # A volume smaller than the patch lies in its middle, as in a window at inference.
        return [
            min(max(int(s), 0), n - p) if n > p else -((p - n) // 2)
            for s, n, p in zip(start, shape, self._patch_size, strict=True)
        ]


def cut(
    data_CIJK: npt.NDArray[np.generic], first: Sequence[int], size: Sequence[int]
) -> npt.NDArray[np.generic]:
    """Copy a region of `size` that starts at `first`; outside the volume its border repeats."""
    inside, padding = [], [(0, 0)]
    for start, wanted, available in zip(first, size, data_CIJK.shape[1:], strict=True):
        begin, end = max(start, 0), min(start + wanted, available)
        inside.append(slice(begin, end))
        padding.append((begin - start, start + wanted - end))
    return np.pad(np.asarray(data_CIJK[:, *inside]), padding, mode="edge")
