"""The voxels whose label is not clear, with the few probabilities that refining them takes.

Post-processing that weighs probabilities anew, as a conditional random field does, changes labels
only where they were uncertain to begin with. Those voxels lie in thin shells around structures, so
their k largest probabilities take a small share of what all classes of all voxels would.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch

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
    """

    def __init__(self, native: Grid, top_k: int) -> None:
        self._native = native
        self._top_k = top_k
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
        found_CN = share_CIJK[:, unclear]
        number = min(self._top_k, len(outputs))
        top_KN, order_KN = found_CN.topk(number, dim=0)
        index_KN = torch.tensor(outputs, device=order_KN.device)[order_KN]
        # A voxel may have fewer outputs than are asked for: the rest is 0 of the first output.
        shape = (int(unclear.sum()), self._top_k)
        index_NK, probability_NK = np.zeros(shape, np.int16), np.zeros(shape, np.float16)
        index_NK[:, :number] = index_KN.T.cpu().numpy()
        probability_NK[:, :number] = top_KN.T.cpu().numpy()
        places = [axis.cpu().numpy() for axis in unclear.nonzero(as_tuple=True)]
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
