"""Training patches: chosen so that rare classes are seen, and a pure function of seed and index.

The n-th patch depends on nothing but the seed, n and the cached cases. So a resumed run draws the
very patches that the interrupted one would have drawn, however many workers load them, and no
random state has to be saved.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from pipeline.errors import StudyError
from pipeline.patches.augmentation import Augmentation, Changes
from pipeline.patches.cache import Blocks, CachedCase, Size


class Batch(NamedTuple):
    """Patches to learn from; B counts them.

    Attributes:
        image: `(B, C, I, J, K)` float32.
        label: `(B, I, J, K)` int64 class indices; `IGNORE_INDEX` where nobody annotated.
        annotated: `(B, C)` bool: which foreground classes each patch's case annotates.
    """

    image: torch.Tensor
    label: torch.Tensor
    annotated: torch.Tensor


class Regions(NamedTuple):
    """What patches are made of: the tissue around each, and what is to change.

    Attributes:
        image: `(B, C, I, J, K)` float32; larger than a patch by the augmentation's margin.
        label: `(B, I, J, K)` int16 class indices.
        annotated: As in `Batch`.
        changes: Of each patch.
    """

    image: torch.Tensor
    label: torch.Tensor
    annotated: torch.Tensor
    changes: tuple[Changes, ...]

    @classmethod
    def join(cls, regions: Sequence["Regions"]) -> "Regions":
        """Put regions of the same size one after the other."""
        return cls(
            torch.cat([one.image for one in regions]),
            torch.cat([one.label for one in regions]),
            torch.cat([one.annotated for one in regions]),
            tuple(changes for one in regions for changes in one.changes),
        )

    def to(self, device: torch.device) -> "Regions":
        """Copy image and label to another device, without waiting where memory is pinned.

        What is annotated stays on the CPU, where a loss can ask for it without waiting.
        """
        image, label = (part.to(device, non_blocking=True) for part in (self.image, self.label))
        return Regions(image, label, self.annotated, self.changes)

    def augmented(self, augmentation: Augmentation) -> Batch:
        """Apply the changes, on the device that the regions are on."""
        image, label = augmentation.apply(self.image, self.label, self.changes)
        return Batch(image, label, self.annotated)


class PatchDataset(Dataset[Regions]):
    """The endless sequence of training patches, not yet augmented.

    Args:
        cases: Preprocessed cases.
        augmentation: Decides how large patches are, and draws the changes to each.
        foreground_share: Share of patches placed on a foreground voxel, of a class drawn evenly
            from those that the case has; the others lie anywhere.
        seed: Of everything random here.
    """

    def __init__(
        self,
        cases: Sequence[CachedCase],
        augmentation: Augmentation,
        *,
        foreground_share: float,
        seed: int,
    ) -> None:
        if not cases:
            raise ValueError("no cases to draw patches from")
        self._cases = cases
        self._augmentation = augmentation
        self._foreground_share = foreground_share
        self._seed = seed

    def __getitem__(self, index: int) -> Regions:
        """Return the `index`-th patch, as regions of which there is one.

        Raises:
            StudyError: If the case cannot be read any more.
        """
        case = self._case_of(index)
        with readable(case):
            return self._read(case, np.random.default_rng([self._seed, index]))

    def _read(self, case: CachedCase, rng: np.random.Generator) -> Regions:
        start = self._choose_start(case, rng)
        first = [s - m for s, m in zip(start, self._augmentation.margin, strict=True)]
        size = self._augmentation.region_size
        image_CIJK, label_1IJK = self._cut(case, first, size)
        annotated_1C = torch.tensor([case.annotated])
        return Regions(image_CIJK[None], label_1IJK, annotated_1C, (self._augmentation.draw(rng),))

    def _cut(
        self, case: CachedCase, first: Sequence[int], size: Size
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return image `(C, I, J, K)` and label `(1, I, J, K)` of a region, as `cut` does."""
        image_CIJK, label_1IJK = (cut(part, first, size) for part in (case.image, case.label))
        return torch.from_numpy(image_CIJK), torch.from_numpy(label_1IJK)

    def _case_of(self, index: int) -> CachedCase:
        """Every case once, in an order shuffled anew for each round."""
        round_index, position = divmod(index, len(self._cases))
        # The 1 sets this stream apart from that of a patch: numpy reads [a, b] as [a, b, 0].
        rng = np.random.default_rng([self._seed, round_index, 1])
        return self._cases[int(rng.permutation(len(self._cases))[position])]

    def _choose_start(self, case: CachedCase, rng: np.random.Generator) -> list[int]:
        size, shape = np.asarray(self._augmentation.patch_size), case.facts.shape
        counts = np.asarray(case.facts.num_locations)
        if counts.any() and rng.random() < self._foreground_share:
            index = rng.choice(np.flatnonzero(counts))
            voxel = case.location(int(counts[:index].sum() + rng.integers(counts[index])))
            # The voxel lies somewhere in the middle half of the patch, not always at its centre.
            start = voxel - rng.integers(size // 4, size - size // 4)
        else:
            start = rng.integers(0, np.maximum(np.asarray(shape) - size, 0) + 1)
        # A volume smaller than the patch lies in its middle, as in a window at inference.
        return [
            min(max(int(s), 0), n - p) if n > p else -((p - n) // 2)
            for s, n, p in zip(start, shape, size.tolist(), strict=True)
        ]


@contextmanager
def readable(case: CachedCase) -> Iterator[None]:
    """Say of a case that cannot be read in the block which one it is, and what to do.

    Raises:
        StudyError: If so.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        found = f"case {case.name!r} of the cache cannot be read any more"
        remedy = "Go on with --resume: what is damaged or gone in the cache is made again."
        raise StudyError(case.folder, found, remedy) from error


def cut(volume: Blocks, first: Sequence[int], size: Size) -> npt.NDArray[np.generic]:
    """Copy a region of `size` that starts at `first`; outside the volume its border repeats."""
    start, stop, padding = [], [], [(0, 0)]
    for begin, wanted, available in zip(first, size, volume.shape, strict=True):
        start.append(max(begin, 0))
        stop.append(min(begin + wanted, available))
        padding.append((start[-1] - begin, begin + wanted - stop[-1]))
    return np.pad(volume.read(start, stop), padding, mode="edge")
