"""The voxels whose label is not clear, with the few probabilities that refining them takes.

Post-processing that weighs probabilities anew, as a conditional random field does, changes labels
only where they were uncertain to begin with. Those voxels lie in thin shells around structures, so
their k largest probabilities take a small share of what all classes of all voxels would.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch

from pipeline.transforms.transfer import Later, download
from pipeline.volume import Grid

CERTAIN = 0.999
"""Probability from which on a voxel is sure to be of its class or, below the rest, not of it.

A conditional random field changes log-odds by at most the weights of its kernels; of the voxels
that it flipped in trials, one in a hundred was more certain than this.
"""

LEAST = (1 - CERTAIN) / 4
"""Largest probability in a part of the volume below which an output is left out there."""


@dataclass(frozen=True)
class Uncertain:
    """Uncertain voxels of a study.

    Attributes:
        voxel_N: Indices into the flattened `(I, J, K)` array of the study's file, in C order.
        index_NK: Outputs (classes or regions), the most probable first.
        probability_NK: Their probabilities, as float16; 0 for outputs below `LEAST` around.
    """

    voxel_N: npt.NDArray[np.int64]
    index_NK: npt.NDArray[np.int16]
    probability_NK: npt.NDArray[np.float16]


class UncertainVoxels:
    """Collects them, part by part.

    Args:
        native: The study's own grid.
        top_k: Probabilities to keep of each voxel.
        later: Takes what is done when a GPU has said how many voxels there are, and which.
    """

    def __init__(self, native: Grid, top_k: int, later: Later | None = None) -> None:
        self._native = native
        self._top_k = top_k
        self._later = later or Later()
        self._parts: list[Uncertain] = []

    def add(
        self,
        share_CIJK: torch.Tensor,
        outputs: Sequence[int],
        start: Sequence[int],
        kind: Literal["labels", "regions"],
    ) -> None:
        """Take the probabilities of a part of the volume.

        Args:
            share_CIJK: `(C, i, j, k)`, in RAS order.
            outputs: Which outputs these are; all that are left out are below `LEAST` there.
            start: RAS index of the part's first voxel.
            kind: Labels are certain if one is; regions, if each is certain to be there or not.
        """
        if kind == "labels":
            unclear = share_CIJK.amax(dim=0) < CERTAIN
        else:
            unclear = ((share_CIJK > 1 - CERTAIN) & (share_CIJK < CERTAIN)).any(dim=0)
        keep = partial(self._keep, outputs=outputs, start=start, size=unclear.shape)
        number = min(self._top_k, len(outputs))
        if share_CIJK.is_cuda:
            counted = download(unclear.sum())
            self._later.add(lambda: self._find(share_CIJK, unclear, int(counted), number, keep))
            return
        top_KN, order_KN = share_CIJK[:, unclear].topk(number, dim=0)
        keep(unclear.flatten().nonzero().view(-1), order_KN, top_KN)

    def _find(
        self,
        share_CIJK: torch.Tensor,
        unclear_IJK: torch.Tensor,
        num_unclear: int,
        top_k: int,
        keep: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None],
    ) -> None:
        """Let a GPU gather as many unclear voxels as there are known to be."""
        if num_unclear == 0:
            return
        place_N = _places(unclear_IJK.flatten(), num_unclear)
        found_CN = share_CIJK.flatten(1).index_select(1, place_N)
        top_KN, order_KN = found_CN.topk(top_k, dim=0)
        place, order, top = (download(each) for each in (place_N, order_KN.short(), top_KN.half()))
        self._later.add(lambda: keep(place, order, top))

    def _keep(
        self,
        place_N: torch.Tensor,
        order_KN: torch.Tensor,
        top_KN: torch.Tensor,
        *,
        outputs: Sequence[int],
        start: Sequence[int],
        size: Sequence[int],
    ) -> None:
        # A voxel may have fewer outputs than are asked for: the rest is 0 of the first output.
        shape, number = (len(place_N), self._top_k), len(top_KN)
        index_NK, probability_NK = np.zeros(shape, np.int16), np.zeros(shape, np.float16)
        index_NK[:, :number] = np.asarray(outputs, np.int16)[order_KN.T.numpy()]
        probability_NK[:, :number] = top_KN.T.numpy()
        places = np.unravel_index(place_N.numpy(), tuple(size))
        voxel_N = self._voxels([p + s for p, s in zip(places, start, strict=True)])
        self._parts.append(Uncertain(voxel_N, index_NK, probability_NK))

    def collected(self) -> Uncertain:
        """Return all of them, by voxel."""
        voxel_N = np.concatenate([np.empty(0, np.int64), *(p.voxel_N for p in self._parts)])
        nothing = (0, self._top_k)
        index_NK = [np.empty(nothing, np.int16), *(p.index_NK for p in self._parts)]
        values_NK = [np.empty(nothing, np.float16), *(p.probability_NK for p in self._parts)]
        # A part may begin with the last voxels of the one before it.
        voxel_N, order = np.unique(voxel_N, return_index=True)
        return Uncertain(voxel_N, np.concatenate(index_NK)[order], np.concatenate(values_NK)[order])

    def _voxels(self, ras: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
        native = []
        for own, (axis, direction) in enumerate(nib.io_orientation(self._native.affine)):
            places = ras[int(axis)]
            native.append(places if direction > 0 else self._native.shape[own] - 1 - places)
        return np.ravel_multi_index(tuple(native), self._native.shape).astype(np.int64)


def _places(mask_N: torch.Tensor, number: int) -> torch.Tensor:
    """Return where a mask is set, given how often: `nonzero` would make the host wait for that."""
    rank_N = mask_N.cumsum(0) - 1
    # All others go into one place more.
    target_N = torch.where(mask_N, rank_N, number)
    places = torch.empty(number + 1, dtype=torch.int64, device=mask_N.device)
    return places.scatter_(0, target_N, torch.arange(len(mask_N), device=mask_N.device))[:number]
