import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from pipeline.transforms.placement import AxisMap, place
from pipeline.volume import Grid

counts = st.integers(1, 300)
spacings = st.floats(0.2, 12).map(lambda s: round(s, 3))


def test_hand_values():
    # 5 voxels of 2 mm cover 10 mm, centres at 0, 2, 4, 6, 8; two of 5 mm have centres 1.5, 6.5.
    axis = AxisMap.between(5, 2.0, 5.0)
    assert (axis.num_native, axis.num_working) == (5, 2)
    np.testing.assert_allclose(axis.native_positions(), [1.5 / 2, 6.5 / 2])
    np.testing.assert_allclose(axis.working_positions(), [(2 * n - 1.5) / 5 for n in range(5)])


@hypothesis.given(counts, spacings, spacings)
def test_the_two_ways_are_inverse_and_share_their_centre(num_native, native_mm, working_mm):
    axis = AxisMap.between(num_native, native_mm, working_mm)
    there, back = axis.native_positions().numpy(), axis.working_positions().numpy()
    np.testing.assert_allclose((there - axis.offset) / axis.step, np.arange(axis.num_working))
    np.testing.assert_allclose(back * axis.step + axis.offset, np.arange(num_native), atol=1e-9)
    assert there.mean() == pytest.approx((num_native - 1) / 2, abs=1e-9)
    covered_mm = axis.num_working * axis.step * native_mm
    assert abs(covered_mm - num_native * native_mm) <= max(working_mm, 1e-3 * covered_mm)


@pytest.mark.parametrize("working_mm", [1.0, 1.0009, 0.9991])
def test_nearly_equal_spacing_is_left_alone(working_mm):
    assert AxisMap.between(500, 1.0, working_mm) == AxisMap(500, 500, 0.0, 1.0)


def test_smaller_than_one_working_voxel():
    assert AxisMap.between(3, 1.0, 10.0) == AxisMap(3, 1, 1.0, 10.0)


def test_working_grid_by_hand():
    ras = Grid((10, 8, 6), np.array([[1.0, 0, 0, -5], [0, 2, 0, 7], [0, 0, 3, 1], [0, 0, 0, 1]]))
    placement = place(ras, ras, ((2, 8), (0, 8), (5, 6)), (2.0, 2.0, 1.0))
    assert placement.crop == (slice(2, 8), slice(0, 8), slice(5, 6))
    working = placement.working
    assert working.shape == (3, 8, 3)
    np.testing.assert_allclose(working.spacing_mm, (2, 2, 1))
    # R: voxels 2..7 lie at -3..2 mm, so the first of three 2-mm voxels is at -2.5 mm.
    # S: voxel 5 lies at 16 mm, so the first of three 1-mm voxels is at 15 mm.
    np.testing.assert_allclose(working.affine[:3, 3], (-2.5, 7, 15))
    np.testing.assert_allclose(placement.native_positions()[0], (0.5, 2.5, 4.5))
    np.testing.assert_allclose(placement.working_positions()[2], (1.0,))


@hypothesis.given(st.tuples(counts, counts, counts), st.tuples(spacings, spacings, spacings))
@hypothesis.settings(max_examples=30)
def test_working_affine_says_where_voxels_are_read(shape, spacing_mm):
    affine = np.array([[1.1, 0.3, 0, 4], [-0.2, 0.9, 0.1, 5], [0, 0.2, 2.5, 6], [0, 0, 0, 1]])
    ras = Grid(shape, affine)
    box = tuple((n // 3, max(n // 3 + 1, n - n // 4)) for n in shape)
    placement = place(ras, ras, box, spacing_mm)
    read = [
        p[-1].item() + first
        for p, (first, _) in zip(placement.native_positions(), box, strict=True)
    ]
    last = [n - 1 for n in placement.working.shape]
    np.testing.assert_allclose(
        placement.working.affine @ [*last, 1], affine @ [*read, 1], atol=1e-6
    )
