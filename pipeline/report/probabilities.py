"""Write probabilities as 4D NIfTI on the input's grid, from parts that come in any order.

In the file one class follows the other, but the way back finishes all classes of one part of the
volume before the next part. So parts wait in a temporary file on disk, without those that are the
same number throughout, which is most of them; and no more than a few slices are ever in memory.

Axes: I, J, K = voxel axes in the order of the input file.
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np
import numpy.typing as npt

from pipeline.report.mask import SLAB_SLICES, append, nifti_stream
from pipeline.study import GeometryHeader
from pipeline.volume import PROBABILITY_STEPS, Slices


@dataclass(frozen=True)
class _Part:
    """Where a part of a class lies in the volume, and where its values lie in the waiting file.

    Attributes:
        box: In the volume.
        offset: In the file; None if all values are the same.
        value: That one.
    """

    box: Slices
    offset: int | None
    value: int = 0


class ProbabilityWriter:
    """Write one probability volume per class or region.

    Voxels are uint8 with scl_slope 1/255, so any NIfTI reader gives 0 to 1 within 1/510.

        with ProbabilityWriter(path, header, shape, num_outputs=3) as writer:
            writer.put(1, box, steps_IJK)

    Args:
        path: The `.nii.gz` to write; it appears only when the block ends well.
        header: `Study.header`; its geometry is repeated bit for bit.
        shape: Number of voxels along I, J, K.
        num_outputs: Number of volumes, background included where there is one.
    """

    def __init__(
        self, path: Path, header: GeometryHeader, shape: tuple[int, int, int], num_outputs: int
    ) -> None:
        self._path = path
        self._header = header
        self._shape = tuple(shape)
        self._parts: list[list[_Part]] = [[] for _ in range(num_outputs)]
        self._stack = ExitStack()
        self._waiting: IO[bytes] | None = None

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        waiting = tempfile.TemporaryFile(dir=self._path.parent)
        self._waiting = self._stack.enter_context(waiting)
        return self

    def put(self, index: int, box: Slices, steps_IJK: npt.NDArray[np.uint8] | int) -> None:
        """Take a part of a volume; later parts overwrite earlier ones, and the rest is 0.

        Args:
            index: Of the volume.
            box: Where the part lies, with starts and stops.
            steps_IJK: Probabilities as multiples of 1 / `PROBABILITY_STEPS`, or the same one for
                the whole box.

        Raises:
            ValueError: If the part has not the size of the box, or the file is not open.
        """
        if self._waiting is None:
            raise ValueError("probabilities can be put only inside the with block")
        if isinstance(steps_IJK, int):
            self._parts[index].append(_Part(box, None, steps_IJK))
            return
        size = tuple(along.stop - along.start for along in box)
        if steps_IJK.shape != size:
            raise ValueError(f"part has the shape {steps_IJK.shape}, not {size}")
        self._parts[index].append(_Part(box, self._waiting.tell()))
        self._waiting.write(np.ascontiguousarray(steps_IJK, np.uint8).tobytes())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._stack:
            if kind is None:
                self._write()
        self._waiting = None

    def _write(self) -> None:
        shape, uint8 = (*self._shape, len(self._parts)), np.dtype(np.uint8)
        slope = 1 / PROBABILITY_STEPS
        with nifti_stream(self._path, self._header, shape, uint8, slope=slope) as stream:
            for parts in self._parts:
                for slab_IJK in self._slabs(parts):
                    append(stream, slab_IJK)

    def _slabs(self, parts: list[_Part]) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield a volume a few slices at a time."""
        num_slices = self._shape[2]
        for start in range(0, num_slices, SLAB_SLICES):
            stop = min(start + SLAB_SLICES, num_slices)
            slab_IJK = np.zeros((*self._shape[:2], stop - start), np.uint8)
            for part in parts:
                i, j, k = part.box
                first, last = max(k.start, start), min(k.stop, stop)
                if first < last:
                    here = slab_IJK[i, j, first - start : last - start]
                    here[:] = self._values(part)[:, :, first - k.start : last - k.start]
            yield slab_IJK

    def _values(self, part: _Part) -> npt.NDArray[np.uint8]:
        size = tuple(along.stop - along.start for along in part.box)
        if part.offset is None:
            return np.broadcast_to(np.uint8(part.value), size)
        assert self._waiting is not None
        self._waiting.seek(part.offset)
        return np.frombuffer(self._waiting.read(int(np.prod(size))), np.uint8).reshape(size)
