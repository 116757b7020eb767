import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.network import NetworkConfig
from pipeline.planning.search import fit_shape, plan_levels


def shape_of(shape, spacing_mm, max_voxels=2e6, max_levels=6, **more):
    size = [n * mm for n, mm in zip(shape, spacing_mm, strict=True)]
    return fit_shape(size, spacing_mm, max_voxels, max_levels, **more)


def test_prostate_gets_the_levels_of_nnu_nets_published_plan():
    """Supplementary note of doi:10.1038/s41592-020-01008-z, D5 Prostate: patch 20 x 320 x 256 at
    3.6 x 0.62 x 0.62 mm; here in R, A, S order, and its first six levels."""
    strides, kernels = plan_levels(np.array([320, 256, 20]), np.array([0.62, 0.62, 3.6]), 6)
    assert strides == ((1, 1, 1), (2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2), (2, 2, 1))
    assert kernels[:3] == ((3, 3, 1), (3, 3, 1), (3, 3, 3))
    assert set(kernels[2:]) == {(3, 3, 3)}


def test_hippocampus_takes_the_whole_volume():
    found = shape_of((35, 50, 36), (1, 1, 1))
    assert found.patch_size == (40, 56, 40)
    assert found.strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    assert found.deepest_size == (5, 7, 5)
    assert set(found.kernel_sizes) == {(3, 3, 3)}


def test_a_rim_may_be_left_out_rather_than_filled_up():
    """35, 50 and 36 voxels are 4 3/8, 6 1/4 and 4 1/2 steps of 8; 63 of 16 are 3 15/16."""
    found = shape_of((35, 50, 36), (1, 1, 1), is_trimmed=True)
    assert found.patch_size == (32, 48, 32)
    assert found.strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    assert shape_of((63, 63, 63), (1, 1, 1), max_levels=5, is_trimmed=True).patch_size == (64,) * 3


def test_large_ct_gets_a_cube_in_mm():
    found = shape_of((512, 512, 300), (0.8, 0.8, 0.8), 128**3)
    assert found.patch_size == (128, 128, 128)
    found = shape_of((512, 512, 120), (0.8, 0.8, 2.4), 128**3)
    edges = np.array(found.patch_size) * (0.8, 0.8, 2.4)
    assert edges.max() / edges.min() < 1.35


def test_no_kernel_skips_voxels_where_its_axis_is_halved():
    """Few thin slices: the finest axis cannot be halved, and is the finest throughout."""
    strides, kernels = plan_levels(np.array([128, 128, 6]), np.array([4.0, 4.0, 1.0]), 5)
    assert strides[1] == (2, 2, 1)
    assert kernels[0] == (1, 1, 3)
    assert set(kernels[1:]) == {(3, 3, 3)}


def test_a_single_slice_is_not_halved():
    found = shape_of((256, 256, 1), (1, 1, 5))
    assert found.patch_size[2] == 1
    assert {stride[2] for stride in found.strides} == {1}
    assert {kernel[2] for kernel in found.kernel_sizes} == {1}


@given(
    st.tuples(*[st.integers(1, 700)] * 3),
    st.tuples(*[st.floats(0.2, 8.0)] * 3),
    st.sampled_from([24**3, 64**3, 160**3]),
    st.sampled_from([3, 5, 6]),
)
def test_every_shape_is_one_that_the_network_takes(shape, spacing_mm, max_voxels, max_levels):
    found = shape_of(shape, spacing_mm, max_voxels, max_levels)
    config = NetworkConfig(
        features=(8,) * len(found.strides),
        strides=found.strides,
        kernel_sizes=found.kernel_sizes,
    )
    config.check_size("patch", found.patch_size)
    for level in config.levels:
        assert not any(s > k for s, k in zip(level.stride, level.kernel_size, strict=True))
    assert 3 <= len(found.strides) <= max_levels
    # Rounding may add to it, most where all axes are short.
    assert found.num_voxels <= 4 * max(max_voxels, 8**3)
    assert all(
        n <= max(2 * m, m + 32) for n, m in zip(found.patch_size, shape, strict=True) if m > 1
    )


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2), (3, 9, 30), (5, 5, 5), (12, 12, 12)])
def test_tiny_volumes_still_have_levels(shape):
    found = shape_of(shape, (1, 1, 1))
    assert len(found.strides) >= 3
    assert max(found.patch_size) >= 8
