"""Volumes stored in small blocks, so that cutting a patch reads little more than the patch.

A volume in C order spreads a patch over thousands of short runs, and what lies between them is read
along. In blocks of about 16 voxels a side the runs are long and few. They are read and not mapped:
page faults cost more than the copy, and nothing stays in the process's memory. Telling the system
of all runs before reading the first lets a cold disk work on them at once.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Size = tuple[int, int, int]

EDGE = 16
"""Voxels along each side of a block, at most. See `benchmarks/patch_reading.py`."""

MAX_HEADER = 512
"""Bytes before the array in a `.npy` file, at most: one line that names type and shape."""


def write_blocks(path: Path, data_CIJK: npt.NDArray[np.generic]) -> None:
    """Store a volume as a plain `.npy` of `(nI, nJ, nK, C, eI, eJ, eK)`: n blocks of e voxels.

    Blocks at the end are filled up with the border; at most one voxel a block, since the edges are
    chosen to divide the volume evenly.
    """
    number, edges = _layout(data_CIJK.shape[1:])
    filling = [(0, n * e - s) for n, e, s in zip(number, edges, data_CIJK.shape[1:], strict=True)]
    padded = np.pad(data_CIJK, [(0, 0), *filling], mode="edge")
    (nI, nJ, nK), (eI, eJ, eK) = number, edges
    parts = padded.reshape(-1, nI, eI, nJ, eJ, nK, eK).transpose(1, 3, 5, 0, 2, 4, 6)
    np.save(path, np.ascontiguousarray(parts))


@dataclass(frozen=True)
class Blocks:
    """A volume that `write_blocks` stored.

    Attributes:
        path: Of the file.
        num_channels: Of the volume.
        shape: Voxels along I, J, K.
        dtype: Of the voxels.
    """

    path: Path
    num_channels: int
    shape: Size
    dtype: npt.DTypeLike

    def read(self, start: Sequence[int], stop: Sequence[int]) -> npt.NDArray[np.generic]:
        """Copy the box from `start` up to `stop` out of the file.

        Args:
            start: First voxel along I, J, K, inside the volume.
            stop: One past the last voxel, inside the volume and behind `start`.

        Returns:
            `(C, I, J, K)` array of the box's size.

        Raises:
            ValueError: If the box is empty or leaves the volume, or the file has another size.
        """
        if not all(0 <= a < b <= n for a, b, n in zip(start, stop, self.shape, strict=True)):
            raise ValueError(f"no box {tuple(start)}..{tuple(stop)} in a volume of {self.shape}")
        number, (eI, eJ, eK) = _layout(self.shape)
        block = np.dtype((self.dtype, (self.num_channels, eI, eJ, eK)))
        first_k, last_k = start[2] // eK, (stop[2] - 1) // eK
        run = np.empty(last_k - first_k + 1, block)
        in_run = slice(start[2] - first_k * eK, stop[2] - first_k * eK)
        box = np.empty(
            (self.num_channels, *(b - a for a, b in zip(start, stop, strict=True))), self.dtype
        )
        with self.path.open("rb", buffering=0) as file:
            header = os.fstat(file.fileno()).st_size - math.prod(number) * block.itemsize
            if not 0 < header <= MAX_HEADER:
                raise ValueError(f"{self.path}: not the size of a volume of {self.shape}")
            runs = [
                (header + ((i * number[1] + j) * number[2] + first_k) * block.itemsize, i, j)
                for i in range(start[0] // eI, (stop[0] - 1) // eI + 1)
                for j in range(start[1] // eJ, (stop[1] - 1) // eJ + 1)
            ]
            if hasattr(os, "posix_fadvise"):  # not on every system
                for offset, _, _ in runs:
                    os.posix_fadvise(file.fileno(), offset, run.nbytes, os.POSIX_FADV_WILLNEED)
            for offset, i, j in runs:
                file.seek(offset)
                if file.readinto(run.data.cast("B")) != run.nbytes:
                    raise ValueError(f"{self.path}: ends within a block")
                in_i, in_box_i = _overlap(i * eI, eI, start[0], stop[0])
                in_j, in_box_j = _overlap(j * eJ, eJ, start[1], stop[1])
                # Blocks along K next to each other: (run, C, I, J, K) to (C, I, J, run x K).
                strip = run[:, :, in_i, in_j].transpose(1, 2, 3, 0, 4)
                box[:, in_box_i, in_box_j] = strip.reshape(*strip.shape[:3], -1)[..., in_run]
        return box


def _layout(shape: Sequence[int]) -> tuple[Size, Size]:
    """Return the number of blocks along each axis, and their edges in voxels."""
    nI, nJ, nK = (math.ceil(n / EDGE) for n in shape)
    i, j, k = shape
    return (nI, nJ, nK), (math.ceil(i / nI), math.ceil(j / nJ), math.ceil(k / nK))


def _overlap(first: int, edge: int, start: int, stop: int) -> tuple[slice, slice]:
    """Return where a block and a box overlap along one axis, seen from the block and the box."""
    low, high = max(first, start), min(first + edge, stop)
    return slice(low - first, high - first), slice(low - start, high - start)
