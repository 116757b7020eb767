"""Write masks as NIfTI on the input's grid, with the input's header fields.

The same voxels give the same bytes: the gzip stream names no file and no time.

Axes: I, J, K = voxel axes in the order of the input file.

Source: NIfTI-1 and NIfTI-2 headers, nifti.nimh.nih.gov; field names are the standard's.
"""

import gzip
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

from pipeline.files import atomic_path
from pipeline.study import GeometryHeader
from pipeline.volume import smallest_label_type

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
