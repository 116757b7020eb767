"""Memory that a refinement may take, and what reading and the band take of it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pipeline.errors import StudyError
from pipeline.inference import NotEnoughMemory
from pipeline.main_memory import available_bytes, resident_bytes
from pipeline.refinement.inputs import Headers

USABLE = 0.9
"""Share of the free memory that is taken where no limit is given."""

CHANNEL_BYTES, LABEL_BYTES, CLASS_BYTES = 12, 12, 9
"""Of a voxel while it is read: as stored and as float32 or labels, and while it is checked."""

BAND_BYTES = 40
"""Of a voxel of a label map while distances to the labels are measured, at the most."""

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

    def check_reading(self) -> None:
        """Raise a `StudyError` if reading the files would take more than is allowed."""
        grid, num_volumes = self._headers.segmentation.grid, self._headers.segmentation.num_volumes
        each = CHANNEL_BYTES * self._headers.num_channels
        each += LABEL_BYTES if self._headers.kind == "labels" else CLASS_BYTES * num_volumes
        self._check(each * grid.num_voxels)

    def check_band(self) -> None:
        """Raise a `StudyError` if finding the band would take more than is allowed."""
        if self._headers.kind == "labels":
            self._check(BAND_BYTES * self._headers.segmentation.grid.num_voxels)

    def left_bytes(self) -> int:
        """Return what the field may take, beyond what is held already."""
        if self._device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self._device)
            grid = self._headers.segmentation.grid
            return max(
                1, int(USABLE * free) - (4 * self._headers.num_channels + 2) * grid.num_voxels
            )
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
