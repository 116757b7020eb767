import itertools

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from scipy import ndimage

from pipeline.transforms.interpolation import AxisInterpolation, interpolate
from pipeline.transforms.placement import AxisMap

axes = st.builds(
    AxisMap.between,
    st.integers(1, 40),
    st.sampled_from([0.5, 0.7, 1.0, 3.0]),
    st.sampled_from([0.5, 1.0, 1.3, 2.0, 7.0]),
)


def weights(axis):
    """How much each working voxel weighs at each native one, `(native, working)`."""
    at, places = axis.working_positions().numpy(), np.arange(axis.num_working)
    return np.stack([np.interp(at, places, unit) for unit in np.eye(axis.num_working)], axis=1)


@hypothesis.given(axes, st.data())
@hypothesis.settings(max_examples=60, deadline=None)
def test_parts_together_make_every_native_voxel_once(axis, data):
    """And each from its own working voxels and the one before them."""
    own = AxisInterpolation(axis)
    inner = st.sets(st.integers(1, max(1, axis.num_working - 1)), max_size=4)
    cuts = sorted({0, axis.num_working} | data.draw(inner))
    expected = weights(axis)
    assert own.cut(0) == 0
    assert own.cut(axis.num_working) == axis.num_native
    for start, stop in itertools.pairwise(cuts):
        rows = slice(own.cut(start), own.cut(stop))
        assert rows.start <= rows.stop
        matrix = own.matrix(start, stop)
        if own.is_identity:
            assert matrix is None
            assert rows == slice(start, stop)
            continue
        first = max(start - 1, 0)
        assert matrix.dtype == torch.float32
        assert matrix.shape == (rows.stop - rows.start, stop - first)
        np.testing.assert_allclose(matrix.sum(dim=1), 1, atol=1e-6)
        np.testing.assert_allclose(matrix, expected[rows, first:stop], atol=1e-6)


@hypothesis.given(axes)
@hypothesis.settings(max_examples=30, deadline=None)
def test_voxels_belong_to_the_first_working_voxels_that_reach_them(axis):
    own = AxisInterpolation(axis)
    positions = np.clip(axis.working_positions().numpy(), 0, axis.num_working - 1)
    for stop in range(1, axis.num_working):
        assert own.cut(stop) == np.count_nonzero(positions <= stop - 1)


def test_hand_values():
    """Native voxels of 1 mm at 0..3; working ones of 2 mm at 0.5 and 2.5."""
    own = AxisInterpolation(AxisMap.between(4, 1.0, 2.0))
    assert not own.is_identity
    assert [own.cut(stop) for stop in (0, 1, 2)] == [0, 1, 4]
    assert own.matrix(0, 2).tolist() == [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]
    assert own.matrix(0, 1).tolist() == [[1]]
    assert own.matrix(1, 2).tolist() == [[0.75, 0.25], [0.25, 0.75], [0, 1]]


def test_equal_grids_are_not_interpolated():
    own = AxisInterpolation(AxisMap.between(5, 1.0, 1.0))
    assert own.is_identity
    assert own.matrix(0, 5) is None
    assert [own.cut(stop) for stop in range(6)] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize(
    "working_mm", [(2.0, 1.5, 3.0), (0.6, 2.5, 1.0), (1.0, 1.0, 1.0), (30.0, 1.3, 0.9)]
)
def test_same_as_scipy(working_mm, order):
    shape = (7, 9, 6)
    maps = [AxisMap.between(n, 1.0, mm) for n, mm in zip(shape, working_mm, strict=True)]
    size = [axis.num_working for axis in maps]
    values = np.random.default_rng(0).normal(size=(3, *size)).astype(np.float32)
    matrices = [AxisInterpolation(axis).matrix(0, axis.num_working) for axis in maps]
    places = np.meshgrid(*(axis.working_positions() for axis in maps), indexing="ij")
    expected = [ndimage.map_coordinates(v, places, order=1, mode="nearest") for v in values]
    found = interpolate(torch.from_numpy(values), matrices, order)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_values_of_any_memory_order():
    maps = [AxisMap.between(n, 1.0, 1.7) for n in (6, 7, 8)]
    matrices = [AxisInterpolation(axis).matrix(0, axis.num_working) for axis in maps]
    values = torch.randn(2, *(axis.num_working for axis in maps))
    other = values.permute(3, 1, 2, 0).contiguous().permute(3, 1, 2, 0)
    assert not other.is_contiguous()
    expected = interpolate(values, matrices, (0, 1, 2))
    torch.testing.assert_close(interpolate(other, matrices, (0, 1, 2)), expected)
