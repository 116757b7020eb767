"""Write masks and probabilities as NIfTI on the input's grid, with the input's header fields.

The same voxels give the same bytes: the gzip stream names no file and no time.

Axes: I, J, K = voxel axes in the order of the input file.

Source: NIfTI-1 and NIfTI-2 headers, nifti.nimh.nih.gov; field names are the standard's.
"""

import gzip
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, cast

import numpy as np
import numpy.typing as npt

from pipeline.files import atomic_path
from pipeline.study import GeometryHeader

GZIP_LEVEL = 3
"""As fast as level 1 on masks, and a third smaller; level 6 takes 2.5 times as long.

Measured on a 62-label mask of 79 MB: 0.10 s and 2.0 MB at level 1, 0.08 s and 1.3 MB at level 3,
0.21 s and 0.7 MB at level 6.
"""

PROBABILITY_STEPS = 255
"""Probabilities are stored as whole multiples of 1/255, so rounding costs at most 1/510."""

_LABEL_TYPES = (np.uint8, np.uint16, np.int32)
_NO_EXTENSIONS = bytes(4)
_SLAB_SLICES = 32


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
    with _nifti_stream(path, header, labels_IJK.shape, label_type, slope=1.0) as stream:
        _write_volume(stream, labels_IJK, label_type)


class ProbabilityWriter:
    """Write one probability volume per class to a 4D NIfTI, holding one slab at a time.

    Voxels are uint8 with scl_slope 1/255, so any NIfTI reader gives 0 to 1 within 1/510. The class
    varies slowest in the file, so each volume is appended to the stream as it comes.

        with ProbabilityWriter(path, header, shape, num_classes=3) as writer:
            for probability_IJK in probabilities:
                writer.add(probability_IJK)

    Args:
        path: The `.nii.gz` to write; it appears only when the block ends well.
        header: `Study.header`; its geometry is repeated bit for bit.
        shape: Number of voxels along I, J, K.
        num_classes: Number of volumes that will be added, background included.
    """

    def __init__(
        self, path: Path, header: GeometryHeader, shape: tuple[int, int, int], num_classes: int
    ) -> None:
        self._path = path
        self._header = header
        self._shape = tuple(shape)
        self._num_classes = num_classes
        self._num_added = 0
        self._stack = ExitStack()
        self._stream: IO[bytes] | None = None

    def __enter__(self) -> Self:
        shape = (*self._shape, self._num_classes)
        slope = 1 / PROBABILITY_STEPS
        stream = _nifti_stream(self._path, self._header, shape, np.dtype(np.uint8), slope=slope)
        self._stream = self._stack.enter_context(stream)
        return self

    def add(self, probability_IJK: npt.NDArray[np.floating]) -> None:
        """Append the next class.

        Args:
            probability_IJK: `(I, J, K)` in 0 to 1; values beyond by rounding are clipped.

        Raises:
            ValueError: If the shape is another, all classes were added, or the file is not open.
        """
        if self._stream is None:
            raise ValueError("probabilities can be added only inside the with block")
        if probability_IJK.shape != self._shape:
            raise ValueError(f"volume has the shape {probability_IJK.shape}, not {self._shape}")
        if self._num_added == self._num_classes:
            raise ValueError(f"all {self._num_classes} classes were added already")
        _write_volume(
            self._stream, probability_IJK, np.dtype(np.uint8), multiplier=PROBABILITY_STEPS
        )
        self._num_added += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream = None
        if kind is None and self._num_added != self._num_classes:
            missing = ValueError(f"{self._num_added} of {self._num_classes} classes were added")
            self._stack.__exit__(ValueError, missing, None)
            raise missing
        self._stack.__exit__(kind, error, trace)


def _label_type(labels_IJK: npt.NDArray[Any]) -> np.dtype[Any]:
    lowest, highest = int(labels_IJK.min()), int(labels_IJK.max())
    for label_type in _LABEL_TYPES:
        if lowest >= 0 and highest <= np.iinfo(label_type).max:
            return np.dtype(label_type)
    raise ValueError(f"labels run from {lowest} to {highest}; they must be 0 to {2**31 - 1}")


@contextmanager
def _nifti_stream(
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


def _write_volume(
    stream: IO[bytes], volume_IJK: npt.NDArray[Any], dtype: np.dtype[Any], multiplier: int = 1
) -> None:
    """Append voxels, I fastest and K slowest, by slabs so that no second volume is held."""
    for start in range(0, volume_IJK.shape[2], _SLAB_SLICES):
        slab_IJK = volume_IJK[:, :, start : start + _SLAB_SLICES]
        if multiplier != 1:
            slab_IJK = np.rint(np.clip(slab_IJK, 0, 1) * multiplier)
        stream.write(slab_IJK.astype(dtype.newbyteorder("<")).tobytes(order="F"))
