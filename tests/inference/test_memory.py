import pytest
import torch

from pipeline.inference import CellStorage, NotEnoughMemory, is_out_of_memory
from pipeline.inference.cells import CellLayout
from pipeline.inference.memory import cells_bytes, settle_storage
from pipeline.inference.windows import Order, WindowGrid

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
# Two rows of two slabs, 8 x 8 x 8 each; the largest begins with a row and a slab of others.
LAYOUT = CellLayout(WindowGrid.lay((8, 16, 16), (8, 8, 8), 0.0), Order.of((8, 16, 16)))
VOXELS = 8 * 9 * 9
# The first cell hands its last voxels to two others before it is dropped.
ALIVE = 3
FLOAT32, FLOAT16 = ALIVE * VOXELS * (5 * 4 + 4), ALIVE * VOXELS * (5 * 2 + 4)
"""Bytes with five outputs, and sums of weights."""


def test_bytes_by_hand():
    assert (LAYOUT.num_alive(1), LAYOUT.voxels_of_largest) == (ALIVE, VOXELS)
    assert cells_bytes(LAYOUT, 5, 1, torch.float32) == FLOAT32 == 46656
    assert cells_bytes(LAYOUT, 5, 1, torch.float16) == FLOAT16 == 27216


@pytest.mark.parametrize(
    ("room", "dtype", "num_bytes"),
    [
        (10**9, torch.float32, FLOAT32),
        (FLOAT32, torch.float32, FLOAT32),
        (FLOAT32 - 1, torch.float16, FLOAT16),
        (FLOAT16, torch.float16, FLOAT16),
    ],
)
def test_the_most_exact_type_that_fits(room, dtype, num_bytes):
    assert settle_storage(LAYOUT, 5, CPU, batch_size=1, room=room) == CellStorage(
        dtype, CPU, num_bytes
    )


@pytest.mark.parametrize("room", [FLOAT16 - 1, 0, -5])
def test_what_does_not_fit_is_refused_with_the_least_it_takes(room):
    with pytest.raises(
        NotEnoughMemory, match=rf"^{FLOAT16} bytes needed, {room} allowed$"
    ) as caught:
        settle_storage(LAYOUT, 5, CPU, batch_size=1, room=room)
    assert (caught.value.needed_bytes, caught.value.limit_bytes) == (FLOAT16, room)


ON_GPU = {torch.float32: FLOAT32 // ALIVE * (ALIVE + 1), torch.float16: FLOAT16 // ALIVE * 4}
"""With one cell more, that waits to be restored."""

LANDING = 2 * 2**14
"""Two batches of 5 x 8 x 8 x 8 logits of 4 bytes, each pinned as the next power of two."""


def landed(dtype):
    """Bytes in main memory for a GPU's logits: those on their way, and the cells of two batches."""
    return LANDING + cells_bytes(LAYOUT, 5, 2, dtype)


@pytest.mark.parametrize(
    ("gpu_room", "room", "device", "dtype"),
    [
        (ON_GPU[torch.float32], 10**9, CUDA, torch.float32),
        (ON_GPU[torch.float16], 10**9, CUDA, torch.float16),
        (ON_GPU[torch.float16], 0, CUDA, torch.float16),
        (ON_GPU[torch.float16] - 1, landed(torch.float32), CPU, torch.float32),
        (0, landed(torch.float16), CPU, torch.float16),
    ],
)
def test_the_networks_gpu_comes_first(gpu_room, room, device, dtype):
    found = settle_storage(LAYOUT, 5, CUDA, batch_size=1, room=room, gpu_room=gpu_room)
    assert (found.device, found.dtype) == (device, dtype)
    assert found.num_bytes == (ON_GPU[dtype] if device == CUDA else landed(dtype))


def test_neither_gpu_nor_main_memory_suffices():
    few = ON_GPU[torch.float16] - 1
    with pytest.raises(NotEnoughMemory) as caught:
        settle_storage(LAYOUT, 5, CUDA, batch_size=1, room=100, gpu_room=few)
    needed = landed(torch.float16)
    assert (caught.value.needed_bytes, caught.value.limit_bytes) == (needed, 100)


def test_a_cpu_has_no_gpu_memory():
    with pytest.raises(NotEnoughMemory):
        settle_storage(LAYOUT, 5, CPU, batch_size=1, room=0, gpu_room=10**9)


def test_running_out_is_told_from_other_errors():
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert is_out_of_memory(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**58, dtype=torch.float32)
    assert is_out_of_memory(caught.value), "as torch says it of main memory"
