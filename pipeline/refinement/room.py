"""Memory that a refinement may take, and what reading and the band take of it.

Axes: I, J, K = voxel axes.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from pipeline.errors import StudyError
from pipeline.inference import NotEnoughMemory
from pipeline.refinement.inputs import Headers
from pipeline.system.memory import available_bytes, resident_bytes

USABLE = 0.9
"""Share of the free memory that is taken where no limit is given."""

CHANNEL_BYTES, LABEL_BYTES, CLASS_BYTES = 12, 12, 9
"""Of a voxel while it is read: as stored and as float32 or labels, and while it is checked."""

BOX_BYTES, BAND_BYTES = 48, 230
"""Of a voxel around the largest label while distances to it are measured; of one in the band.

Measured on a ball (60 bytes a voxel of the volume, 11 % of it in the band) and on shells and blocks
with 6 and 48 labels (203 and 226, all of it in the band).
"""

BYTES_PER_GB = 1e9


class Room:
    """What may be taken, of main memory and of a GPU's.

    Args:
        headers: Of the files to be read.
        device: To compute on.
        max_bytes: Of main memory that the process may take; None: all that is free.
    """

    def __init__(self, headers: Headers, device: torch.device, max_bytes: int | None) -> None:
        self._headers, self._device, self._max_bytes = headers, device, max_bytes
        self._name = headers.segmentation.path.name
        self._grid = headers.segmentation.grid

    def check_reading(self) -> None:
        """Raise a `StudyError` if reading the files would take more than is allowed."""
        num_volumes = self._headers.segmentation.num_volumes
        each = CHANNEL_BYTES * self._headers.num_channels
        each += LABEL_BYTES if self._headers.kind == "labels" else CLASS_BYTES * num_volumes
        self._check(each * self._grid.num_voxels)

    def check_band(self, class_IJK: npt.NDArray[np.unsignedinteger], band_mm: float) -> None:
        """Raise a `StudyError` if finding the band would take more than is allowed."""
        self._check(band_bytes(class_IJK, self._grid.spacing_mm, band_mm))

    def left_bytes(self) -> int:
        """Return what the field may take, beyond what is held already."""
        if self._device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self._device)
            held = (4 * self._headers.num_channels + 2) * self._grid.num_voxels
            return max(1, int(USABLE * free) - held)
        return max(1, self._limit_bytes() - resident_bytes())

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """Turn a lack of memory within the block into an error with its remedy."""
        try:
            yield
        except NotEnoughMemory as error:
            held = 0 if self._device.type == "cuda" else resident_bytes()
            raise self._too_large(held + error.needed_bytes, held + error.limit_bytes) from error
        except torch.OutOfMemoryError as error:
            found = "refining it takes more memory than the GPU has free"
            raise StudyError(self._name, found, "Give --device cpu.") from error

    def _limit_bytes(self) -> int:
        return self._max_bytes or resident_bytes() + int(USABLE * available_bytes())

    def _check(self, num_bytes: int) -> None:
        needed, limit = resident_bytes() + num_bytes, self._limit_bytes()
        if needed > limit:
            raise self._too_large(needed, limit)

    def _too_large(self, needed: int, limit: int) -> StudyError:
        return StudyError(
            self._name,
            f"refining it takes {needed / BYTES_PER_GB:.2f} GB of memory, but only "
            f"{limit / BYTES_PER_GB:.2f} GB may be used",
            "Raise --max-memory, free memory, set a larger theta_position_mm and "
            "theta_smoothness_mm, or crop the files.",
        )


def band_bytes(
    class_IJK: npt.NDArray[np.unsignedinteger], spacing_mm: Sequence[float], band_mm: float
) -> int:
    """Return about what it takes to find the voxels within a distance of a boundary.

    Args:
        class_IJK: `(I, J, K)` class of each voxel; 0 is background.
        spacing_mm: Distance between voxels along I, J, K, in mm.
        band_mm: The distance, to each side.
    """
    margins = [math.ceil(band_mm / mm) + 1 for mm in spacing_mm]
    box_voxels = 0
    for box in ndimage.find_objects(class_IJK):
        if box is not None:
            sides = zip(box, margins, class_IJK.shape, strict=True)
            lengths = (min(n, s.stop - s.start + 2 * margin) for s, margin, n in sides)
            box_voxels = max(box_voxels, math.prod(lengths))
    band_voxels = 0.0
    for axis, mm in enumerate(spacing_mm):
        along = np.moveaxis(class_IJK, axis, 0)
        num_faces = sum(np.count_nonzero(a != b) for a, b in pairwise(along))
        band_voxels += num_faces * 2 * band_mm / mm
    return BOX_BYTES * box_voxels + BAND_BYTES * int(min(band_voxels, class_IJK.size))
