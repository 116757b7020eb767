import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from monai.data.utils import dense_patch_slices

from pipeline.inference.windows import Order, WindowGrid, importance

overlaps = st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.5, 0.6, 0.75, 0.9])


def triples(low, high):
    return st.tuples(*[st.integers(low, high)] * 3)


def laid(size, window, overlap):
    """Windows over a volume that is no shorter than they are."""
    size = tuple(max(n, edge) for n, edge in zip(size, window, strict=True))
    return WindowGrid.lay(size, window, overlap)


# --- Where they lie ---


def monais_starts(size, window, overlap):
    """As in `monai.inferers`: its scan interval, then its dense patches."""
    steps = [
        edge if edge == n else max(int(edge * (1 - overlap)), 1)
        for n, edge in zip(size, window, strict=True)
    ]
    slices = dense_patch_slices(size, window, steps)
    return [tuple(along.start for along in box) for box in slices]


@hypothesis.given(triples(1, 40), triples(1, 24), overlaps)
@hypothesis.settings(max_examples=80, deadline=None)
def test_same_windows_as_monai(size, window, overlap):
    grid = laid(size, window, overlap)
    assert list(itertools.product(*grid.starts)) == monais_starts(grid.size, window, overlap)
    assert grid.num_windows == len(monais_starts(grid.size, window, overlap))


def test_hand_values():
    grid = WindowGrid.lay((13, 9, 8), (8, 8, 8), 0.5)
    assert grid.starts == ((0, 4, 5), (0, 1), (0,))
    assert grid.num_windows == 6


# --- How much their voxels count ---


@pytest.mark.parametrize("window", [(8, 8, 8), (5, 7, 4), (1, 6, 32), (64, 48, 40)])
def test_importance_is_a_gaussian_that_nowhere_vanishes(window):
    lines = [
        np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (0.125 * n)) ** 2) for n in map(float, window)
    ]
    expected = np.einsum("i,j,k->ijk", *lines)
    expected = np.maximum(expected, max(expected.min(), 1e-3))
    found = importance(window)
    assert found.shape == window
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found.min() >= 1e-3


# --- Segments ---


@hypothesis.given(st.integers(1, 300), st.integers(1, 64), overlaps)
@hypothesis.settings(max_examples=150, deadline=None)
def test_segments_partition_an_axis_into_steps(size, window, overlap):
    grid = laid((size, 1, 1), (window, 1, 1), overlap)
    segments = grid.segments(0)
    assert [segments[0][0], segments[-1][1]] == [0, grid.size[0]]
    assert all(a < b for a, b in segments)
    assert all(one[1] == other[0] for one, other in itertools.pairwise(segments))
    starts = grid.starts[0]
    if len(starts) == 1:
        assert segments == [(0, grid.size[0])]
    else:
        step = grid.steps[0]
        assert max(b - a for a, b in segments) <= 2 * step
        assert min(b - a for a, b in segments) * 2 >= step, "no slivers"


def test_segments_by_hand():
    # Steps of 4: windows at 0, 4, 8, 9. The cut at 9 would leave a sliver.
    assert WindowGrid.lay((17, 8, 8), (8, 8, 8), 0.5).segments(0) == [
        (0, 4),
        (4, 8),
        (8, 13),
        (13, 17),
    ]
    assert WindowGrid.lay((16, 8, 8), (8, 8, 8), 0.0).segments(0) == [(0, 8), (8, 16)]


@hypothesis.given(triples(1, 40), triples(1, 16), overlaps)
@hypothesis.settings(max_examples=60, deadline=None)
def test_last_window_to_touch_a_segment(size, window, overlap):
    grid = laid(size, window, overlap)
    for axis in range(3):
        for a, b in grid.segments(axis):
            voxels = set(range(a, b))
            touching = [
                number
                for number, start in enumerate(grid.starts[axis])
                if voxels & set(range(start, start + window[axis]))
            ]
            assert grid.last_window(axis, (a, b)) == touching[-1]


# --- Tissue ---


def casts_on_all(box, mask):
    """Whether some voxel of a box lies on a line with tissue along an axis; for each axis."""
    i, j, k = box
    return [mask[:, j, k].any(), mask[i, :, k].any(), mask[i, j, :].any()]


@hypothesis.given(st.integers(0, 10**6), triples(1, 9), st.sampled_from([0.001, 0.01, 0.1]))
@hypothesis.settings(max_examples=40, deadline=None)
def test_windows_that_hold_tissue_are_never_left_out(seed, window, share):
    mask = np.random.default_rng(seed).random((14, 11, 9)) < share
    shadows = tuple(mask.any(axis=axis) for axis in range(3))
    grid = laid(mask.shape, window, 0.5)
    for start in itertools.product(*grid.starts):
        box = tuple(slice(s, s + n) for s, n in zip(start, window, strict=True))
        found = grid.may_hold_tissue(start, shadows)
        assert found == all(casts_on_all(box, mask))
        assert found or not mask[box].any()


def test_gas_within_a_body_is_kept_and_air_beside_it_is_not():
    mask = np.zeros((24, 24, 24), bool)
    mask[2:16, 2:16, 2:16] = True
    mask[4:14, 4:14, 4:14] = False
    shadows = tuple(mask.any(axis=axis) for axis in range(3))
    grid = WindowGrid.lay((24, 24, 24), (4, 4, 4), 0.0)
    assert not mask[8:12, 8:12, 8:12].any()
    assert grid.may_hold_tissue((8, 8, 8), shadows)
    assert not grid.may_hold_tissue((16, 8, 8), shadows)
    assert not grid.may_hold_tissue((8, 8, 20), shadows)


# --- Order ---


@pytest.mark.parametrize("size", list(itertools.permutations((5, 9, 20))))
def test_the_longest_axis_goes_slowest(size):
    order = Order.of(size)
    assert [size[axis] for axis in order.axes] == [5, 9, 20]
    assert (order.column, order.row, order.slab) == order.axes
    assert [order.axes[place] for place in order.back()] == [0, 1, 2]


@pytest.mark.parametrize("size", [(7, 7, 7), (7, 9, 7), (7, 7, 3)])
def test_equal_axes_are_each_used_once(size):
    assert sorted(Order.of(size).axes) == [0, 1, 2]


@pytest.mark.parametrize("size", [(20, 9, 13), (9, 13, 20), (8, 8, 8), (13, 20, 8)])
def test_stripes_visit_every_window_once(size):
    grid = WindowGrid.lay(size, (8, 8, 8), 0.5)
    order = Order.of(size)
    stripes = list(order.stripes(grid))
    windows = [start for _, column in stripes for start in column]
    assert sorted(windows) == sorted(itertools.product(*grid.starts))
    assert windows == sorted(windows, key=lambda start: [start[a] for a in order.axes[::-1]])
    for (n, m), column in stripes:
        assert {start[order.slab] for start in column} == {grid.starts[order.slab][n]}
        assert {start[order.row] for start in column} == {grid.starts[order.row][m]}
        assert len(column) == len(grid.starts[order.column])
