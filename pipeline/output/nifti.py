"""Write masks and probabilities as NIfTI on the input's grid, with the input's header fields.

The same voxels give the same bytes: the gzip stream names no file and no time.

Axes: I, J, K = voxel axes in the order of the input file.

Source: NIfTI-1 and NIfTI-2 headers, nifti.nimh.nih.gov; field names are the standard's.

In the file one class follows the other, but the way back finishes all classes of one part of the
volume before the next part. So parts wait in a temporary file on disk, without those that are the
same number throughout, which is most of them; and no more than a few slices are ever in memory.

Axes: I, J, K = voxel axes in the order of the input file.
"""

import gzip
import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, cast

import numpy as np
import numpy.typing as npt

from pipeline.study import GeometryHeader
from pipeline.system.files import atomic_path
from pipeline.volume import PROBABILITY_STEPS, Slices, smallest_label_type

GZIP_LEVEL = 3
"""As fast as level 1 on masks, and a third smaller; level 6 takes 2.5 times as long.

Measured on a 62-label mask of 79 MB: 0.10 s and 2.0 MB at level 1, 0.08 s and 1.3 MB at level 3,
0.21 s and 0.7 MB at level 6.
"""

_LABEL_TYPES = (np.uint8, np.uint16, np.int32)
_NO_EXTENSIONS = bytes(4)
SLAB_SLICES = 32
"""Slices that are converted at once, so that no second volume is held."""


def write_mask(labels_IJK: npt.NDArray[Any], header: GeometryHeader, path: Path) -> None:
    """Write a label map atomically, as `.nii.gz`.

    Voxels are uint8, or uint16 or int32 where labels need it (int32 rather than uint32, which some
    tools refuse).

    Args:
        labels_IJK: `(I, J, K)` whole numbers from 0 up, in the input's voxel order.
        header: `Study.header`; its geometry is repeated bit for bit.
        path: The file to write; it appears only when it is complete.

    Raises:
        ValueError: If the labels have not three axes, or a label fits no type.
    """
    if labels_IJK.ndim != 3:
        raise ValueError(f"labels have the shape {labels_IJK.shape}, not (I, J, K)")
    label_type = _label_type(labels_IJK)
    with nifti_stream(path, header, labels_IJK.shape, label_type, slope=1.0) as stream:
        for start in range(0, labels_IJK.shape[2], SLAB_SLICES):
            append(stream, labels_IJK[:, :, start : start + SLAB_SLICES].astype(label_type))


def hash_labels(labels_IJK: npt.NDArray[Any]) -> str:
    """Return the SHA-256 of a label map's shape and voxels, whatever type they are stored as.

    Args:
        labels_IJK: `(I, J, K)` whole numbers from 0 up, in the input's voxel order.
    """
    digest = hashlib.sha256(str(labels_IJK.shape).encode())
    label_type = smallest_label_type(int(labels_IJK.max())).newbyteorder("<")
    for start in range(0, labels_IJK.shape[2], SLAB_SLICES):
        slab_IJK = labels_IJK[:, :, start : start + SLAB_SLICES].astype(label_type)
        digest.update(slab_IJK.tobytes(order="F"))
    return digest.hexdigest()


def _label_type(labels_IJK: npt.NDArray[Any]) -> np.dtype[Any]:
    lowest, highest = int(labels_IJK.min()), int(labels_IJK.max())
    for label_type in _LABEL_TYPES:
        if lowest >= 0 and highest <= np.iinfo(label_type).max:
            return np.dtype(label_type)
    raise ValueError(f"labels run from {lowest} to {highest}; they must be 0 to {2**31 - 1}")


@contextmanager
def nifti_stream(
    path: Path,
    header: GeometryHeader,
    shape: Sequence[int],
    dtype: np.dtype[Any],
    *,
    slope: float,
) -> Iterator[IO[bytes]]:
    """Open `path` as a gzip stream that stands where the voxels begin."""
    written = header.copy()
    written.set_data_dtype(dtype)
    written.set_data_shape(tuple(shape))
    written["scl_slope"], written["scl_inter"] = slope, 0.0
    written["vox_offset"] = written.sizeof_hdr + len(_NO_EXTENSIONS)
    with (
        atomic_path(path) as temporary,
        temporary.open("wb") as file,
        gzip.GzipFile("", "wb", compresslevel=GZIP_LEVEL, fileobj=file, mtime=0) as stream,
    ):
        stream.write(written.binaryblock + _NO_EXTENSIONS)
        yield cast(IO[bytes], stream)


def append(stream: IO[bytes], slab_IJK: npt.NDArray[Any]) -> None:
    """Append the next slices of a volume, I fastest and K slowest, as little-endian numbers."""
    stream.write(slab_IJK.astype(slab_IJK.dtype.newbyteorder("<"), copy=False).tobytes(order="F"))


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
