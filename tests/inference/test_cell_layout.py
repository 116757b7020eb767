import itertools

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from pipeline.inference.cells import CellLayout, Cells
from pipeline.inference.ensemble import Ensemble
from pipeline.inference.memory import CellStorage
from pipeline.inference.predictor import Stream, Windows
from pipeline.inference.windows import Order, WindowGrid

LAYOUTS = [
    ((20, 9, 13), (8, 8, 8), 0.5),
    ((9, 30, 17), (8, 6, 5), 0.5),
    ((8, 8, 8), (8, 8, 8), 0.5),
    ((8, 25, 8), (8, 8, 8), 0.25),
    ((16, 24, 32), (8, 8, 8), 0.0),
    ((12, 11, 23), (6, 7, 5), 0.75),
    ((33, 10, 9), (16, 8, 8), 0.3),
]


def laid(size, window, overlap):
    size = tuple(max(n, edge) for n, edge in zip(size, window, strict=True))
    return CellLayout(WindowGrid.lay(size, window, overlap), Order.of(size))


@pytest.fixture(params=LAYOUTS, ids=str)
def layout(request):
    return laid(*request.param)


def all_cells(layout):
    return list(itertools.product(range(len(layout.slabs)), range(len(layout.rows))))


def owner_map(layout):
    """Number of the cell that each voxel of the volume belongs to, along I, J, K."""
    owner = np.full([layout.grid.size[axis] for axis in layout.order.axes], -1)
    for number, (n, m) in enumerate(all_cells(layout)):
        box = (slice(None), slice(*layout.rows[m]), slice(*layout.slabs[n]))
        assert (owner[box] == -1).all()
        assert owner[box].shape == layout.size((n, m))
        owner[box] = number
    assert (owner >= 0).all(), "cells leave nothing out"
    return owner.transpose(layout.order.back())


def cut_out(array, start, window):
    return array[tuple(slice(s, s + n) for s, n in zip(start, window, strict=True))]


def test_a_window_is_shared_among_the_cells_it_touches(layout):
    owner, window = owner_map(layout), layout.grid.window
    cells = all_cells(layout)
    for start in itertools.product(*layout.grid.starts):
        found = np.full([window[axis] for axis in layout.order.axes], -1)
        for part in layout.touched(start):
            assert (found[part.in_window] == -1).all()
            found[part.in_window] = cells.index(part.cell)
            shape = found[part.in_window].shape
            assert shape == tuple(along.stop - along.start for along in part.in_cell)
            assert 0 not in shape
            assert all(
                along.start >= 0 and along.stop <= n
                for along, n in zip(part.in_cell, layout.size(part.cell), strict=True)
            )
        expected = cut_out(owner, start, window).transpose(layout.order.axes)
        np.testing.assert_array_equal(found, expected)


def test_places_in_cells_are_places_in_the_volume(layout):
    """A count of windows added up cell by cell equals that of the whole volume."""
    size, window = layout.grid.size, layout.grid.window
    expected = np.zeros(size, int)
    sums = {index: np.zeros(layout.size(index), int) for index in all_cells(layout)}
    numbers = np.arange(np.prod(window)).reshape(window)
    for start in itertools.product(*layout.grid.starts):
        cut_out(expected, start, window)[:] += numbers
        for part in layout.touched(start):
            sums[part.cell][part.in_cell] += numbers.transpose(layout.order.axes)[part.in_window]
    for index, found in sums.items():
        own = found.transpose(layout.order.back())
        before = [layout.voxels_before(index)[place] for place in layout.order.back()]
        start = [s + b for s, b in zip(layout.start(index), before, strict=True)]
        np.testing.assert_array_equal(own, cut_out(expected, start, own.shape))


def test_each_cell_is_finished_once_by_the_last_column_to_touch_it(layout):
    last = {}
    for at, windows in layout.order.stripes(layout.grid):
        for start in windows:
            last |= {part.cell: at for part in layout.touched(start)}
    assert sorted(last) == all_cells(layout)
    finished = {}
    for at, _ in layout.order.stripes(layout.grid):
        for index in layout.finished_by(*at):
            assert index not in finished
            finished[index] = at
    assert finished == last


def test_cells_finish_before_those_that_begin_with_their_last_voxels(layout):
    order = [
        index for at, _ in layout.order.stripes(layout.grid) for index in layout.finished_by(*at)
    ]
    for index in order:
        for follower, along in layout.followers(index):
            assert order.index(follower) > order.index(index)
            start, before = layout.start(follower), layout.voxels_before(follower)
            axis = layout.order.axes[along]
            end = layout.slabs[index[0]][1] if along == 2 else layout.rows[index[1]][1]
            assert before[along] == 1
            assert start[axis] == end - 1


def test_followers_by_hand():
    layout = laid((8, 16, 24), (8, 8, 8), 0.0)
    assert (layout.rows, layout.slabs) == ([(0, 8), (8, 16)], [(0, 8), (8, 16), (16, 24)])
    assert layout.followers((0, 0)) == [((0, 1), 1), ((1, 0), 2)]
    assert layout.followers((0, 1)) == [((1, 1), 2)]
    assert layout.followers((2, 0)) == [((2, 1), 1)]
    assert layout.followers((2, 1)) == []
    assert layout.start((1, 1)) == (0, 7, 7)
    assert layout.voxels_of_largest == 8 * 9 * 9


def buffers_of_a_run(layout, batch_size, shadows=None):
    """Go through the windows in batches and count the buffers that the cells lay in."""
    cpu = torch.device("cpu")
    cells = Cells(layout, 1, "sigmoid", torch.float32, cpu)
    ensemble = Ensemble([torch.nn.Identity()], cpu, None)
    data = torch.zeros(1, *layout.grid.size)
    stream = Stream(CellStorage(torch.float32, cpu, 0), shadows)
    places = set()
    for at in Windows(data, layout, ensemble, cells, batch_size, stream).finished_columns():
        for index in layout.finished_by(*at):
            block = cells.take(index)
            assert block.start == layout.start(index)
            places.add(block.values_CIJK.untyped_storage().data_ptr())
            assert block.values_CIJK[0].numel() <= layout.voxels_of_largest
            cells.drop(index)
    return len(places)


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_number_alive_is_that_of_a_run(layout, batch_size):
    """All buffers live as long as the cells do, so each has an address of its own."""
    assert layout.num_alive(batch_size) == buffers_of_a_run(layout, batch_size)


@hypothesis.given(
    st.tuples(*[st.integers(1, 20)] * 3),
    st.tuples(*[st.integers(4, 9)] * 3),
    st.sampled_from([0.0, 0.25, 0.5]),
    st.sampled_from([1, 3, 5]),
)
@hypothesis.settings(max_examples=25, deadline=None)
def test_number_alive_of_any_layout(size, window, overlap, batch_size):
    layout = laid(size, window, overlap)
    assert layout.num_alive(batch_size) == buffers_of_a_run(layout, batch_size)


def test_a_volume_hardly_larger_than_a_window_is_not_cut_into_slivers():
    layout = laid((129, 129, 129), (128, 128, 128), 0.5)
    assert len(layout.rows) == len(layout.slabs) == 2


def test_number_alive_does_not_grow_with_the_longest_axis():
    found = {laid((20, 30, length), (8, 8, 8), 0.5).num_alive(1) for length in (40, 80, 200)}
    assert len(found) == 1


@pytest.mark.parametrize("batch_size", [4, 8, 16])
def test_windows_left_out_do_not_bring_more_cells_to_life(batch_size):
    """A batch of the few windows that are left would span many columns."""
    layout = laid((96, 96, 160), (16, 16, 16), 0.5)
    tissue = np.zeros(layout.grid.size, bool)
    tissue[:10] = True
    shadows = tuple(tissue.any(axis=axis) for axis in range(3))
    most = buffers_of_a_run(layout, batch_size, shadows)
    assert most <= layout.num_alive(batch_size)
