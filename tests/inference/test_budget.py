import math

import pytest
import torch

from pipeline.inference import (
    CellStorage,
    InferenceConfig,
    MemoryBudget,
    NotEnoughMemory,
    Predictor,
    budget,
)
from pipeline.inference.memory import cells_bytes

CPU = torch.device("cpu")
SIZE = (20, 17, 30)
RESIDENT, AVAILABLE, OF_WINDOW, BATCH, HELD = 1_000_000, 500_000, 30_000, 3, 70_000
FIXED = RESIDENT + HELD + BATCH * OF_WINDOW


class Memory:
    """What the machine says of it, as a test wants it."""

    resident, available, num_trims = RESIDENT, AVAILABLE, 0


CONFIG = InferenceConfig(window=(8, 8, 8), precision="fp32", batch_size=BATCH)


@pytest.fixture
def memory(monkeypatch):
    told = Memory()

    def trim():
        told.num_trims += 1

    monkeypatch.setattr(budget, "resident_bytes", lambda: told.resident)
    monkeypatch.setattr(budget, "available_bytes", lambda: told.available)
    monkeypatch.setattr(budget, "give_back_freed", trim)
    monkeypatch.setattr(budget, "reuse_freed", lambda: None)
    monkeypatch.setattr(Predictor, "measure_memory", lambda _self, num_channels: OF_WINDOW)
    return told


@pytest.fixture
def predictor():
    return Predictor([torch.nn.Conv3d(2, 4, 1)], CONFIG, CPU, 4)


@pytest.fixture
def of_cells(predictor):
    """Bytes that sums take by their type."""
    layout = predictor.lay(SIZE)
    return {dtype: cells_bytes(layout, 4, BATCH, dtype) for dtype in (torch.float32, torch.float16)}


def limit_for(num_bytes):
    """The smallest limit of which the usable share is this much."""
    return math.ceil(num_bytes / budget.USABLE)


def test_limit_is_what_is_asked_for_or_all_there_is(memory, predictor):
    assert MemoryBudget(predictor, 2, 123).limit() == 123
    free = MemoryBudget(predictor, 2, None)
    assert free.limit() == RESIDENT + AVAILABLE
    memory.resident, memory.available = 7, 11
    assert free.limit() == 18


@pytest.mark.usefixtures("memory")
def test_peak_is_the_sum_of_its_parts(predictor, of_cells):
    storage, peak = MemoryBudget(predictor, 2, 10**9).plan(SIZE, HELD)
    assert storage == CellStorage(torch.float32, CPU, of_cells[torch.float32])
    assert peak == FIXED + of_cells[torch.float32]


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize(
    ("spare", "dtype"), [(0, torch.float32), (0, torch.float16), (99, torch.float16)]
)
def test_just_what_fits_is_taken(predictor, of_cells, spare, dtype):
    limit = limit_for(FIXED + of_cells[dtype] + spare)
    storage, peak = MemoryBudget(predictor, 2, limit).plan(SIZE, HELD)
    assert storage.dtype == dtype
    assert peak == FIXED + of_cells[dtype]


def test_what_does_not_fit_is_refused_with_both_numbers(memory, predictor, of_cells):
    needed = FIXED + of_cells[torch.float16]
    with pytest.raises(NotEnoughMemory) as caught:
        MemoryBudget(predictor, 2, limit_for(needed - 1)).plan(SIZE, HELD)
    assert (caught.value.needed_bytes, caught.value.limit_bytes) == (needed, limit_for(needed - 1))
    assert memory.num_trims == 1, "before the process at rest is measured"
    with pytest.raises(NotEnoughMemory) as caught:
        MemoryBudget(predictor, 2, limit_for(FIXED - 1)).plan(SIZE, HELD)
    assert (caught.value.needed_bytes, caught.value.limit_bytes) == (needed, limit_for(FIXED - 1))
    assert memory.num_trims == 3, "and freed memory is given back before it is refused"


def test_rest_is_measured_once(memory, predictor, of_cells):
    """A study read meanwhile counts as held, not as the process at rest."""
    of_one = MemoryBudget(predictor, 2, 10**9)
    memory.resident = 9 * RESIDENT
    assert of_one.plan(SIZE, HELD)[1] == FIXED + of_cells[torch.float32]


@pytest.mark.usefixtures("memory")
def test_smaller_batches_take_less(predictor, of_cells):
    """After memory ran out the predictor computes smaller ones."""
    of_one = MemoryBudget(predictor, 2, 10**9)
    predictor.batch_size = 1
    of_cells_of_one = cells_bytes(predictor.lay(SIZE), 4, 1, torch.float32)
    assert of_cells_of_one <= of_cells[torch.float32]
    assert of_one.plan(SIZE, HELD)[1] == FIXED - 2 * OF_WINDOW + of_cells_of_one


def test_largest_volume_is_held_three_times_in_float32(memory, predictor):
    of_one = MemoryBudget(predictor, 2, RESIDENT + 240_000)
    assert of_one.max_working_voxels(2) == 10_000
    assert of_one.max_working_voxels(1) == 20_000
    memory.resident = RESIDENT + 250_000
    assert of_one.max_working_voxels(2) == 10_000, "what another study takes does not count"
    assert MemoryBudget(predictor, 2, RESIDENT).max_working_voxels(2) == 0, "nor less than nothing"
    memory.available = 48_000
    assert MemoryBudget(predictor, 2, None).max_working_voxels(2) == 2000


def test_without_a_limit_a_study_is_read_if_what_there_is_suffices(memory, predictor):
    of_all = MemoryBudget(predictor, 2, None)
    memory.resident, memory.available = RESIDENT + 700, 500
    of_all.check_loading(100)
    with pytest.raises(NotEnoughMemory) as caught:
        of_all.check_loading(101)
    assert caught.value.limit_bytes == RESIDENT + 1200


@pytest.mark.usefixtures("memory")
def test_reading_takes_12_bytes_a_voxel():
    of_one = MemoryBudget(Predictor([torch.nn.Conv3d(2, 4, 1)], CONFIG, CPU, 4), 2, RESIDENT + 1200)
    of_one.check_loading(100)
    with pytest.raises(NotEnoughMemory) as caught:
        of_one.check_loading(101)
    assert (caught.value.needed_bytes, caught.value.limit_bytes) == (
        RESIDENT + 1212,
        RESIDENT + 1200,
    )


def test_the_window_that_is_measured_has_the_channels_of_the_data(predictor, monkeypatch):
    asked, reused = [], []
    monkeypatch.setattr(
        Predictor, "measure_memory", lambda _self, num_channels: asked.append(num_channels) or 0
    )
    monkeypatch.setattr(budget, "reuse_freed", lambda: reused.append(True))
    MemoryBudget(predictor, 2, None)
    assert asked == [2]
    assert reused == [True], "memory is used again before it is measured"


# --- With networks on a GPU ---


@pytest.fixture
def gpu(memory, predictor, monkeypatch):
    """A predictor that says it is on a GPU, and how much of that GPU is free."""
    free = {"bytes": 10**9}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (free["bytes"], 10**10))
    predictor.device = torch.device("cuda")
    return free


def on_gpu(predictor, dtype):
    return cells_bytes(predictor.lay(SIZE), 4, BATCH, dtype, num_more=1)


def test_on_a_gpu_neither_batch_nor_sums_are_in_main_memory(gpu, predictor):
    storage, peak = MemoryBudget(predictor, 2, 10**9).plan(SIZE, HELD)
    needed = on_gpu(predictor, torch.float32)
    assert storage == CellStorage(torch.float32, predictor.device, needed)
    assert peak == RESIDENT + HELD


def test_sums_that_do_not_fit_a_gpu_are_kept_in_main_memory(gpu, predictor):
    gpu["bytes"] = BATCH * OF_WINDOW
    storage, peak = MemoryBudget(predictor, 2, 10**9).plan(SIZE, HELD)
    assert (storage.device, storage.dtype) == (CPU, torch.float32)
    assert peak == RESIDENT + HELD + storage.num_bytes


def test_sums_spare_a_gpu_if_told_to(gpu, predictor):
    storage, _ = MemoryBudget(predictor, 2, 10**9).plan(SIZE, HELD, spares_gpu=True)
    assert storage.device == CPU


def test_a_tenth_of_a_gpu_stays_free(gpu, predictor):
    wanted = BATCH * OF_WINDOW + on_gpu(predictor, torch.float32) + 777 + budget.WAY_BACK_BYTES
    gpu["bytes"] = round(wanted / 0.9) + 2
    of_one = MemoryBudget(predictor, 2, 10**9)
    assert of_one.plan(SIZE, HELD, 777)[0].dtype == torch.float32
    gpu["bytes"] = round(wanted / 0.9) - 2
    storage, _ = of_one.plan(SIZE, HELD, 777)
    assert (storage.device, storage.dtype) == (predictor.device, torch.float16)


def test_what_studies_hold_on_a_gpu_changes_no_plan(gpu, predictor, monkeypatch):
    """The next study is prepared there meanwhile; torch's pool counts, but for the networks."""
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: 300)
    of_one = MemoryBudget(predictor, 2, 10**9)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: 1000)
    lacking = of_one.shortage(50)
    assert lacking.needed_bytes == OF_WINDOW + 50 + budget.WAY_BACK_BYTES
    assert lacking.limit_bytes == int(0.9 * (10**9 + 1000 - 300))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: 900)
    assert of_one.shortage(50).limit_bytes == lacking.limit_bytes
