import numpy as np
import pytest
import torch

from pipeline.inference import CellStorage, Stream
from pipeline.inference.cells import CellLayout, Cells
from pipeline.inference.ensemble import Ensemble
from pipeline.inference.predictor import Windows
from pipeline.inference.windows import Order, WindowGrid

CPU = torch.device("cpu")
SIZE, WINDOW = (13, 9, 20), (8, 8, 8)
NUM_WINDOWS = 3 * 2 * 4
"""Steps of 4: 0, 4, 5 along I; 0, 1 along J; 0, 4, 8, 12 along K. Columns of two run along J."""


class Spy(torch.nn.Module):
    """Notes how many windows come at once."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __deepcopy__(self, memo):
        return self

    def forward(self, windows_BCIJK):
        self.sizes.append(len(windows_BCIJK))
        return torch.cat([windows_BCIJK, -windows_BCIJK], dim=1)


def stream(**others):
    return Stream(storage=CellStorage(torch.float32, CPU, 0), **others)


def windows_of(told, network=None, batch_size=1, seed=0):
    layout = CellLayout(WindowGrid.lay(SIZE, WINDOW, 0.5), Order.of(SIZE))
    assert layout.grid.num_windows == NUM_WINDOWS
    data = torch.randn(1, *SIZE, generator=torch.Generator().manual_seed(seed))
    cells = Cells(layout, 2, "softmax", torch.float32, CPU)
    ensemble = Ensemble([network or Spy()], CPU, None)
    return Windows(data, layout, ensemble, cells, batch_size, told)


def shadows_of(tissue):
    return tuple(tissue.any(axis=axis) for axis in range(3))


@pytest.mark.parametrize(
    ("batch_size", "sizes"), [(1, [1] * 24), (5, [5] * 4 + [4]), (24, [24]), (99, [24])]
)
def test_batches_span_columns(batch_size, sizes):
    """Columns hold two windows each; only the last batch may be smaller."""
    spy = Spy()
    columns = list(windows_of(stream(), spy, batch_size).finished_columns())
    assert spy.sizes == sizes
    assert columns == [(n, m) for n in range(4) for m in range(3)]


@pytest.mark.parametrize("batch_size", [1, 2, 5, 24])
def test_columns_finish_when_their_last_window_is_done(batch_size):
    """Column n needs 2 (n + 1) windows, and no column waits longer than for its batch."""
    done = [0]
    told = stream(advance=lambda number, _total: done.append(number))
    for number, _ in enumerate(windows_of(told, batch_size=batch_size).finished_columns(), 1):
        assert 2 * number <= done[-1] < 2 * number + batch_size


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_progress_counts_windows(batch_size):
    calls = []
    told = stream(advance=lambda done, total: calls.append((done, total)))
    list(windows_of(told, batch_size=batch_size).finished_columns())
    expected = [*range(batch_size, NUM_WINDOWS, batch_size), NUM_WINDOWS]
    assert calls == [(done, NUM_WINDOWS) for done in expected]


def test_windows_of_air_are_no_part_of_the_total():
    """Tissue in the corner 0..3 of all axes: of the starts, only 0 (and 1 along J) reach it."""
    tissue = np.zeros(SIZE, bool)
    tissue[:4, :4, :4] = True
    calls, spy = [], Spy()
    told = stream(shadows=shadows_of(tissue), advance=lambda *call: calls.append(call))
    columns = list(windows_of(told, spy).finished_columns())
    assert calls == [(1, 2), (2, 2)]
    assert sum(spy.sizes) == 2
    assert len(columns) == 12, "columns without windows are finished too"


def test_air_only_needs_no_network():
    calls, spy = [], Spy()
    told = stream(
        shadows=shadows_of(np.zeros(SIZE, bool)), advance=lambda *call: calls.append(call)
    )
    assert len(list(windows_of(told, spy, 4).finished_columns())) == 12
    assert (spy.sizes, calls, told.seconds) == ([], [], {})


@pytest.mark.parametrize("batch_size", [4, 24])
def test_batches_change_no_sums(batch_size):
    """All columns at once or one by one: what the cells hold is the same."""
    one, many = windows_of(stream()), windows_of(stream(), batch_size=batch_size)
    assert list(one.finished_columns()) == list(many.finished_columns())
    for index in one.layout.finished_by(0, 0):
        expected = one.cells.take(index).values_CIJK
        assert torch.equal(many.cells.take(index).values_CIJK, expected)


def test_times_are_told_and_added_up():
    told = stream()
    list(windows_of(told).finished_columns())
    assert set(told.seconds) == {"network", "stitch"}
    first = dict(told.seconds)
    assert min(first.values()) > 0
    list(windows_of(told).finished_columns())
    assert all(told.seconds[stage] > seconds for stage, seconds in first.items())


def test_nothing_is_computed_ahead_of_asking():
    """Each column is taken before the next is computed, so that its memory is free by then."""
    spy = Spy()
    columns = windows_of(stream(), spy).finished_columns()
    assert spy.sizes == []
    next(columns)
    assert sum(spy.sizes) == 2
