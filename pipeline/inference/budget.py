"""How a prediction stays within the memory that this process may take."""

import logging
import time

import torch

from pipeline.inference.memory import CellStorage, NotEnoughMemory, settle_storage
from pipeline.inference.predictor import Predictor
from pipeline.inference.windows import Size
from pipeline.system.memory import (
    available_bytes,
    give_back_freed,
    resident_bytes,
    reuse_freed,
)
from pipeline.transforms import SLAB_VOXELS

logger = logging.getLogger(__name__)

LOADING_BYTES_PER_VOXEL = 12
"""Of a study while it is read and brought to the network's grid: its stored voxels, the same as
float32, and what resampling makes of them."""

USABLE = 0.9
"""Of main memory that may be taken: what was measured was up to 8 % more than the sum of its parts,
since freed memory is in pieces."""

GPU_SHARE = 0.9
"""Of the free memory of a GPU; the rest is for fragments."""

WAY_BACK_BYTES = 2**29
"""Of a GPU, for sums that are being made probabilities and for tiles that are being interpolated: a
few copies of 64 MiB each, reckoned and not measured."""


class MemoryBudget:
    """What a predictor takes, measured once, and what it may take.

    Args:
        predictor: Computes one window, to see what that takes.
        num_channels: Of its input.
        max_bytes: Of main memory; None: all that is free.

    Raises:
        NotEnoughMemory: If this machine cannot compute a single window.

    Attributes:
        max_bytes: The same.
        at_rest: Main memory of the process before it computes anything, in bytes.
        window_s: That the first window took; those that follow are faster.
    """

    def __init__(self, predictor: Predictor, num_channels: int, max_bytes: int | None) -> None:
        self.max_bytes = max_bytes
        self._predictor = predictor
        if predictor.device.type == "cpu":
            # A third of the time of a window would else be spent on pages of memory.
            reuse_freed()
        give_back_freed()
        self.at_rest = resident_bytes()
        self._gpu_at_rest = 0
        if predictor.device.type == "cuda":
            self._gpu_at_rest = torch.cuda.memory_allocated(predictor.device)
        self._check_window(num_channels)
        began = time.monotonic()
        self._of_window = predictor.measure_memory(num_channels)
        self.window_s = time.monotonic() - began
        self._gpu_left = 0
        if predictor.device.type == "cuda":
            # The first window loads libraries that stay in main memory.
            self.at_rest = resident_bytes()
            self._gpu_left = self._gpu_room() - predictor.batch_size * self._of_window

    def _check_window(self, num_channels: int) -> None:
        """Look before a window is computed whether there can be memory for it at all."""
        device = self._predictor.device
        room = available_bytes() if device.type == "cpu" else self._gpu_room()
        needed = self._predictor.least_memory(num_channels, room)
        if needed > room:
            raise NotEnoughMemory(needed, room)

    def loading_bytes(self, num_voxels: int) -> int:
        """Return about what a study of so many voxels takes while it is read."""
        return LOADING_BYTES_PER_VOXEL * num_voxels

    def check_loading(self, num_voxels: int) -> None:
        """Make sure that a study can be read within the limit, or in the memory that there is.

        What is held for other studies counts as free: they will be done before this one needs it.

        Raises:
            NotEnoughMemory: If it cannot; the system would end the process.
        """
        needed, limit = self.at_rest + self.loading_bytes(num_voxels), self.limit()
        if needed > limit:
            raise NotEnoughMemory(needed, limit)

    def max_working_voxels(self, num_channels: int) -> int:
        """Return how large a volume may be made: it is held up to three times on the way.

        What another study takes at the moment does not count against a limit that was given: the
        two are done at the same time only if both fit.
        """
        room = available_bytes() if self.max_bytes is None else self.max_bytes - self.at_rest
        return max(0, room // (3 * 4 * num_channels))

    def plan(
        self, size: Size, held_bytes: int, volume_bytes: int = 0, *, spares_gpu: bool = False
    ) -> tuple[CellStorage, int]:
        """Choose how to keep sums of logits.

        Args:
            size: Of the working volume.
            held_bytes: That the working volume, the labels and other studies take.
            volume_bytes: Of the working volume, which goes to the GPU if the networks are there.
            spares_gpu: Whether sums are kept in main memory in any case.

        Returns:
            The storage, and the peak of main memory to expect, in bytes.

        Raises:
            NotEnoughMemory: If nothing fits.
        """
        predictor = self._predictor
        on_gpu = predictor.device.type == "cuda"
        of_batch = predictor.batch_size * self._of_window
        fixed = self.at_rest + held_bytes + (0 if on_gpu else of_batch)
        limit = self.limit()
        if fixed > USABLE * limit:
            give_back_freed()
        gpu_room = 0
        if on_gpu and not spares_gpu:
            gpu_room = self._gpu_room() - of_batch - volume_bytes - WAY_BACK_BYTES
        try:
            storage = settle_storage(
                predictor.lay(size),
                predictor.num_outputs,
                predictor.device,
                batch_size=predictor.batch_size,
                room=int(USABLE * limit) - fixed,
                gpu_room=gpu_room,
            )
        except NotEnoughMemory as error:
            raise NotEnoughMemory(fixed + error.needed_bytes, limit) from error
        self._gpu_left = gpu_room - (storage.num_bytes if storage.device.type == "cuda" else 0)
        return storage, fixed + (0 if storage.device.type == "cuda" else storage.num_bytes)

    def has_room_to_prepare(self, num_channels: int, num_native: int, num_working: int) -> bool:
        """Tell whether a study can be brought to the network's grid on the GPU.

        Beside what was last planned, which is being predicted meanwhile.

        Args:
            num_channels: Of the study.
            num_native: Its voxels.
            num_working: About as many working voxels.
        """
        # Channels one by one and together, and one of which two axes are done; slabs, some times.
        held = 2 * num_channels * num_working + max(num_native, num_working) + 4 * SLAB_VOXELS
        return 4 * held <= self._gpu_left

    def limit(self) -> int:
        """Return how much main memory this process may hold."""
        if self.max_bytes is not None:
            return self.max_bytes
        return resident_bytes() + available_bytes()

    def shortage(self, volume_bytes: int) -> NotEnoughMemory:
        """Return what one window of a volume takes of the networks' device, and what there is."""
        needed = self._of_window + volume_bytes
        if self._predictor.device.type == "cpu":
            return NotEnoughMemory(needed, max(0, self.limit() - self.at_rest))
        return NotEnoughMemory(needed + WAY_BACK_BYTES, self._gpu_room())

    def _gpu_room(self) -> int:
        """Return what studies may take of the GPU.

        That does not depend on what this process holds there for studies at the moment: else two
        runs of the same studies might store sums in different types.
        """
        device = self._predictor.device
        free, _ = torch.cuda.mem_get_info(device)
        # What torch holds is for the networks, or for studies.
        free += torch.cuda.memory_reserved(device) - self._gpu_at_rest
        return int(GPU_SHARE * free)
