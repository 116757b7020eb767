import math

import numpy as np
import pytest
import torch

from pipeline.inference.cells import CellLayout, Cells
from pipeline.inference.windows import Order, WindowGrid, importance

CPU = torch.device("cpu")
LAYOUTS = [
    ((20, 9, 13), (8, 8, 8), 0.5),
    ((9, 30, 17), (8, 6, 5), 0.5),
    ((8, 8, 8), (8, 8, 8), 0.5),
    ((16, 24, 16), (8, 8, 8), 0.0),
    ((12, 11, 23), (6, 7, 5), 0.75),
]


def laid(size, window, overlap):
    return CellLayout(WindowGrid.lay(size, window, overlap), Order.of(size))


def made(layout, num_outputs=3, activation="softmax", dtype=torch.float32):
    return Cells(layout, num_outputs, activation, dtype, CPU)


def random_windows(layout, num_outputs):
    """Logits of each window, by where it begins."""
    rng = np.random.default_rng(0)
    return {
        start: torch.from_numpy(
            rng.normal(size=(num_outputs, *layout.grid.window)).astype(np.float32)
        )
        for _, windows in layout.order.stripes(layout.grid)
        for start in windows
    }


def box_at(start, size):
    return tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))


def whole_volume(layout, windows, left_out=()):
    """Mean logits of the whole volume at once, and the weights, in float64."""
    num_outputs = len(next(iter(windows.values())))
    sums = torch.zeros(num_outputs, *layout.grid.size, dtype=torch.float64)
    weights = torch.zeros(layout.grid.size, dtype=torch.float64)
    weight = importance(layout.grid.window).double()
    for start, logits in windows.items():
        if start not in left_out:
            box = box_at(start, layout.grid.window)
            sums[:, *box] += logits * weight
            weights[box] += weight
    return sums, weights


def run(cells, layout, windows, left_out=()):
    """Add windows in turn, and copy what is finished to where it belongs."""
    whole = torch.full((len(next(iter(windows.values()))), *layout.grid.size), torch.nan)
    for at, starts in layout.order.stripes(layout.grid):
        for start in starts:
            if start not in left_out:
                cells.add(windows[start], start)
        for index in layout.finished_by(*at):
            block = cells.take(index)
            box = box_at(block.start, block.values_CIJK.shape[1:])
            known = whole[:, *box]
            again = ~known.isnan()
            assert torch.equal(block.values_CIJK.float()[again], known[again]), "shared voxels"
            whole[:, *box] = block.values_CIJK.float()
            cells.drop(index)
    assert not whole.isnan().any()
    return whole


@pytest.mark.parametrize("arguments", LAYOUTS, ids=str)
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_cells_add_up_to_the_whole_volume(arguments, activation, dtype):
    layout = laid(*arguments)
    windows = random_windows(layout, 3)
    sums, weights = whole_volume(layout, windows)
    expected = (
        torch.softmax(sums / weights, 0) if activation == "softmax" else (sums / weights).sigmoid()
    )
    found = run(made(layout, 3, activation, dtype), layout, windows)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-3
    torch.testing.assert_close(found, expected.float(), rtol=0, atol=tolerance)


def test_windows_left_out_leave_background():
    layout = laid((16, 24, 16), (8, 8, 8), 0.0)
    windows = random_windows(layout, 2)
    left_out = {start for start in windows if start[1] == 8}
    found = run(made(layout, 2), layout, windows, left_out)
    assert (found[0, :, 8:16] == 1).all()
    assert (found[1, :, 8:16] == 0).all()
    sums, weights = whole_volume(layout, windows, left_out)
    expected = torch.softmax(sums[:, :, :8] / weights[:, :8], dim=0).float()
    torch.testing.assert_close(found[:, :, :8], expected)


def test_windows_may_come_in_any_type_and_memory_order():
    layout = laid(*LAYOUTS[0])
    windows = {at: logits.bfloat16() for at, logits in random_windows(layout, 3).items()}
    expected = run(made(layout), layout, {at: logits.float() for at, logits in windows.items()})
    stored = {at: w[None].to(memory_format=torch.channels_last_3d)[0] for at, w in windows.items()}
    assert torch.equal(run(made(layout), layout, stored), expected)


def test_memory_of_a_dropped_cell_is_used_again():
    layout = laid((8, 16, 24), (8, 8, 8), 0.0)
    cells = made(layout)
    ((first, windows), *_) = layout.order.stripes(layout.grid)
    (index,) = layout.finished_by(*first)
    cells.add(torch.randn(3, 8, 8, 8), windows[0])
    address = cells.take(index).values_CIJK.untyped_storage().data_ptr()
    cells.drop(index)
    (other,) = layout.finished_by(2, 1)
    block = cells.take(other)
    assert block.values_CIJK.untyped_storage().data_ptr() == address
    own = block.values_CIJK[:, :, 1:, 1:]
    assert (own[0] == 1).all(), "and nothing is left in it"
    assert (own[1:] == 0).all()


def test_what_is_reserved_is_what_adding_needs(monkeypatch):
    """After `reserve`, windows are added without taking memory for sums."""
    layout = laid((12, 20, 25), (8, 8, 8), 0.5)
    windows = random_windows(layout, 3)
    expected = run(made(layout), layout, windows)
    taken = []
    empty = torch.empty

    def noted(*arguments, **options):
        taken.append(arguments)
        return empty(*arguments, **options)

    monkeypatch.setattr(torch, "empty", noted)
    cells = made(layout)
    starts = list(windows)[:7]
    cells.reserve(starts)
    touched = {part.cell for start in starts for part in layout.touched(start)}
    assert len(taken) == len(touched) > 1
    taken.clear()
    cells.reserve(starts)
    for start in starts:
        cells.add(windows[start], start)
    assert taken == []
    found = run(cells, layout, windows, left_out=starts)
    assert torch.equal(found, expected), "reserving changes no value"


def test_blocks_begin_with_the_last_voxels_of_those_before():
    layout = laid((8, 16, 24), (8, 8, 8), 0.0)
    cells = made(layout)
    for _, windows in layout.order.stripes(layout.grid):
        for start in windows:
            cells.add(torch.randn(3, 8, 8, 8), start)
    first = cells.take((0, 0))
    last_row, last_slab = first.values_CIJK[:, :, -1].clone(), first.values_CIJK[..., -1].clone()
    beside = cells.take((0, 1))
    assert beside.start == (0, 7, 0)
    assert torch.equal(beside.values_CIJK[:, :, 0], last_row)
    after = cells.take((1, 0))
    assert after.start == (0, 0, 7)
    assert torch.equal(after.values_CIJK[..., 0], last_slab)
    corner = cells.take((1, 1)).values_CIJK[:, :, 0, 0]
    assert torch.equal(corner, last_row[..., -1]), "the corner comes from two cells before"


def test_a_block_is_as_large_as_its_cell():
    layout = laid((8, 16, 24), (8, 8, 8), 0.0)
    cells = made(layout)
    shape = cells.take((1, 1)).values_CIJK.shape
    assert shape == (3, 8, 9, 9)
    assert math.prod(shape[1:]) == layout.voxels_of_largest
