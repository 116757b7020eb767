"""Training patches from cases that a GPU holds, which then neither reads nor receives any of them.

What is drawn for the n-th patch is drawn as ever, on the CPU; only the voxels come from elsewhere.

Axes: C = channels, I, J, K = voxel axes in RAS order.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from pipeline.patches.augmentation import Augmentation
from pipeline.patches.cache import Blocks, CachedCase, Size
from pipeline.patches.patches import PatchDataset, readable
from pipeline.system.progress import track

BYTES_PER_VALUE = 4
"""Of an image, which is float32."""

BYTES_PER_LABEL = 2


class ResidentPatches(PatchDataset):
    """The patches of `PatchDataset`, on the device that holds the cases.

    Args:
        cases: Preprocessed cases; each is read once, here.
        augmentation: As for `PatchDataset`.
        device: That is to hold them.
        foreground_share: As for `PatchDataset`.
        seed: As for `PatchDataset`.

    Raises:
        StudyError: If a case cannot be read any more.
    """

    def __init__(
        self,
        cases: Sequence[CachedCase],
        augmentation: Augmentation,
        device: torch.device,
        *,
        foreground_share: float,
        seed: int,
    ) -> None:
        super().__init__(cases, augmentation, foreground_share=foreground_share, seed=seed)
        self._held: dict[Path, tuple[torch.Tensor, torch.Tensor]] = {}
        for case in track(cases, f"Moving the training set to {device}", len(cases)):
            with readable(case):
                self._held[case.folder] = _read(case.image, device), _read(case.label, device)

    def release(self) -> None:
        """Give the memory back; no patch can be cut any more."""
        self._held.clear()

    def _cut(
        self, case: CachedCase, first: Sequence[int], size: Size
    ) -> tuple[torch.Tensor, torch.Tensor]:
        image_CIJK, label_1IJK = self._held[case.folder]
        return cut_resident(image_CIJK, first, size), cut_resident(label_1IJK, first, size)


def resident_bytes_of(case: CachedCase) -> int:
    """Return what a case takes where it is held."""
    i, j, k = case.facts.shape
    return i * j * k * (BYTES_PER_VALUE * case.facts.num_channels + BYTES_PER_LABEL)


def cut_resident(volume_CIJK: torch.Tensor, first: Sequence[int], size: Size) -> torch.Tensor:
    """Return a region of `size` that starts at `first`; outside the volume its border repeats.

    A view of the volume where the region lies inside.
    """
    for axis, (begin, wanted) in enumerate(zip(first, size, strict=True), start=1):
        available = volume_CIJK.shape[axis]
        if begin >= 0 and begin + wanted <= available:
            volume_CIJK = volume_CIJK.narrow(axis, begin, wanted)
        else:
            places = torch.arange(begin, begin + wanted, device=volume_CIJK.device)
            volume_CIJK = volume_CIJK.index_select(axis, places.clamp(0, available - 1))
    return volume_CIJK


def _read(volume: Blocks, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(volume.read((0, 0, 0), volume.shape)).to(device)
