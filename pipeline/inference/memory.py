"""What a prediction will hold in memory, counted operation by operation.

    peak = process with its networks at rest    measured
         + a batch on its way through them      measured on one window, times windows of a batch
         + working volume                       4 bytes x channels x working voxels
         + cells alive                          (bytes of a sum x outputs + 4) x voxels of a cell
         + labels on the study's own grid       bytes of a label x native voxels

Only the last of the logits and the cells grow with the outputs. Where windows overlap by half, the
cells alive are about half a window's length times the area across the volume's longest axis, and
a row of windows more; the length of the volume does not matter, and of the native grid only the
labels are held.

With networks on a GPU, batch, working volume and cells are there, with one cell more: a block is
restored when the next is there. Where the cells are kept in main memory, logits of two batches are
on their way to them in pinned memory, and their cells are there.
"""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.inference.cells import CellLayout


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that come alive in a block, in a forward and backward pass.

    Attributes:
        forward_peak: Most bytes alive at once until the backward pass begins.
        backward_peak: Most bytes alive at once in it; gradients are among them.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.forward_peak = self.backward_peak = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self._began_backward = False

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Run an operation and look at what it made."""
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                # The block's own new memory: what an operation only changes was there before.
                if not self._is_given(storage, args):
                    reference = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
                    self._alive[storage._cdata] = (reference, storage.nbytes())
        ended = [key for key, (reference, _) in self._alive.items() if reference.expired()]  # type: ignore[no-untyped-call]
        for key in ended:
            del self._alive[key]
        num_bytes = sum(size for _, size in self._alive.values())
        if torch._C._current_graph_task_id() != -1:
            self._began_backward = True
            self.backward_peak = max(self.backward_peak, num_bytes)
        elif not self._began_backward:
            self.forward_peak = max(self.forward_peak, num_bytes)
        return made

    def _is_given(self, storage: torch.UntypedStorage, args: tuple[object, ...]) -> bool:
        if storage._cdata in self._alive:
            return False
        # By the object: tensors without memory all lie at the same place.
        return any(
            isinstance(given, torch.Tensor) and given.untyped_storage()._cdata == storage._cdata
            for given in args
        )


FEW_TENSORS = 8
"""Of the network's most channels at full size; no network holds that many at once."""


def least_bytes(network: torch.nn.Module, shape: Sequence[int], enough: int) -> int:
    """Return what one pass of a network must hold at the least, in bytes, without computing it.

    Workspaces of convolutions come on top; half precision may take half.

    Args:
        network: Stays as it is.
        shape: Of its input, `(B, C, I, J, K)`.
        enough: Where a pass cannot come near that many bytes, it is not looked at: 0 is returned.
    """
    most = max(
        (max(weight.shape[:2]) for weight in network.parameters() if weight.ndim > 1), default=1
    )
    batch, _, *size = shape
    if 4 * FEW_TENSORS * most * batch * math.prod(size) < enough:
        return 0
    shadow = copy.deepcopy(network).to("meta").eval()
    image_BCIJK = torch.empty(tuple(shape), device="meta")
    with LiveBytes() as live, torch.no_grad():
        shadow(image_BCIJK)
    return int(live.forward_peak) + 4 * image_BCIJK.numel()


CELL_TYPES = (torch.float32, torch.float16)
"""Float16 where float32 does not fit. Logits beyond 20, or windows that overlap by more than half,
can then change a probability by up to 0.03, and so labels where two are that close."""


class NotEnoughMemory(Exception):  # noqa: N818
    """A prediction does not fit.

    Attributes:
        needed_bytes: That it takes at the least.
        limit_bytes: That it may take.
    """

    def __init__(self, needed_bytes: int, limit_bytes: int) -> None:
        super().__init__(f"{needed_bytes} bytes needed, {limit_bytes} allowed")
        self.needed_bytes, self.limit_bytes = needed_bytes, limit_bytes


@dataclass(frozen=True)
class CellStorage:
    """Where and how sums of logits are kept.

    Attributes:
        dtype: Of the sums.
        device: That holds them.
        num_bytes: What they take at their most.
    """

    dtype: torch.dtype
    device: torch.device
    num_bytes: int


def settle_storage(
    layout: CellLayout,
    num_outputs: int,
    device: torch.device,
    *,
    batch_size: int,
    room: int,
    gpu_room: int = 0,
) -> CellStorage:
    """Choose the most exact storage of sums that fits, on the networks' device if possible.

    Args:
        layout: Of the cells.
        num_outputs: Of the network.
        device: That the networks are on.
        batch_size: Windows computed at once.
        room: Main memory left for the cells, in bytes.
        gpu_room: The same of the GPU, if the networks are on one.

    Raises:
        NotEnoughMemory: If even float16 does not fit.
    """
    landing = 0
    if device.type == "cuda":
        for dtype in CELL_TYPES:
            needed = cells_bytes(layout, num_outputs, batch_size, dtype, num_more=1)
            if needed <= gpu_room:
                return CellStorage(dtype, device, needed)
        landing = _landing_bytes(layout, num_outputs, batch_size)
        batch_size *= 2
    needed = 0
    for dtype in CELL_TYPES:
        needed = landing + cells_bytes(layout, num_outputs, batch_size, dtype)
        if needed <= room:
            return CellStorage(dtype, torch.device("cpu"), needed)
    raise NotEnoughMemory(needed, room)


def cells_bytes(
    layout: CellLayout, num_outputs: int, batch_size: int, dtype: torch.dtype, num_more: int = 0
) -> int:
    """Return the memory that the cells take at their most, with their sums of weights.

    Args:
        layout: Of the cells.
        num_outputs: Of the network.
        batch_size: Windows computed at once.
        dtype: Of the sums.
        num_more: Cells that are held though they are done with.
    """
    per_voxel = num_outputs * dtype.itemsize + torch.float32.itemsize
    return (layout.num_alive(batch_size) + num_more) * layout.voxels_of_largest * per_voxel


def _landing_bytes(layout: CellLayout, num_outputs: int, batch_size: int) -> int:
    """Return what two batches of logits take, of float32 at the most; torch pins powers of two."""
    of_batch = 4 * batch_size * num_outputs * math.prod(layout.grid.window)
    return int(2 << (of_batch - 1).bit_length())


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch failed since memory ran out; only for its own memory of a GPU it has a type."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    # Main memory; pinned memory and what CUDA takes beside torch; workspaces of cuBLAS and cuDNN.
    signs = "can't allocate memory", "CUDA error: out of memory", "_ALLOC_FAILED"
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
