import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from pipeline.postprocessing.crf import torch_kernels
from pipeline.postprocessing.crf.lattice import REACH, Axis, Lattice, Scratch, blur, splat_ones

CPU = torch.device("cpu")
TAPS = [math.exp(-(step**2) / (2 * 2 / 3)) for step in range(-3, 4)]
"""Gaussian of a variance of 2/3: spreading and reading add the rest."""


def line(num_voxels, cell_voxels):
    """Return a lattice along I only, in double precision."""
    one = Axis(0, 1, 1.0)
    return Lattice((Axis(0, num_voxels, cell_voxels), one, one), (), CPU, torch.float64)


def filtered(lattice, index_N3, values_N):
    """Spread, blur and read."""
    feature_NM = torch.empty(len(index_N3), 0, dtype=lattice.dtype)
    rows = torch_kernels.place(lattice, index_N3.short(), feature_NM)
    grid_G1 = torch.zeros(lattice.num_cells, 1, dtype=lattice.dtype)
    rows.splat(values_N[:, None].to(lattice.dtype), grid_G1)
    blur(lattice, grid_G1)
    found_N1 = torch.zeros(len(index_N3), 1, dtype=lattice.dtype)
    rows.gather(grid_G1, torch.ones(len(index_N3), dtype=lattice.dtype), found_N1)
    return found_N1[:, 0]


@pytest.mark.parametrize("cell_voxels", [2.3, 3.7, 5.0, 8.5])
def test_a_point_spreads_as_a_gaussian_of_one_cell(cell_voxels):
    """Depending on where in its cell a point lies its curve is up to 1.22 times too high or low.

    That is sqrt(3/2), where spreading and reading add no variance. Over all places it is right to
    1/100.
    """
    num_voxels = 120
    lattice = line(num_voxels, cell_voxels)
    index_N3 = torch.zeros(num_voxels, 3, dtype=torch.int64)
    index_N3[:, 0] = torch.arange(num_voxels)
    centres = range(40, 80)
    distance = np.arange(-35, 36)
    expected = np.exp(-(distance**2) / (2 * cell_voxels**2))
    curves = []
    for centre in centres:
        curve = filtered(lattice, index_N3, torch.arange(num_voxels) == centre).numpy()
        curve = curve[centre + distance]
        curves.append(curve / curve.sum() * expected.sum())
    assert np.abs(np.array(curves) - expected).max() < 0.23
    np.testing.assert_allclose(np.mean(curves, axis=0), expected, atol=0.02)


def test_axes_spread_independently():
    """In three axes, a point's curve is the product of three, to rounding."""
    axes = (Axis(0, 12, 2.5), Axis(0, 10, 1.5), Axis(0, 14, 3.0))
    lattice = Lattice(axes, (), CPU, torch.float64)
    shape = [axis.num_voxels for axis in axes]
    places = torch.tensor(list(np.ndindex(*shape)))
    point = (5, 4, 6)
    found = filtered(lattice, places, (places == torch.tensor(point)).all(dim=1)).view(shape)
    alone = []
    for axis, centre in zip(axes, point, strict=True):
        index_N3 = torch.zeros(axis.num_voxels, 3, dtype=torch.int64)
        index_N3[:, 0] = torch.arange(axis.num_voxels)
        each = filtered(
            line(axis.num_voxels, axis.cell_voxels),
            index_N3,
            torch.arange(axis.num_voxels) == centre,
        )
        alone.append(each)
    np.testing.assert_allclose(found, torch.einsum("i,j,k->ijk", *alone), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("at_once", [1, 50, 2**18])
def test_blur_is_a_correlation_along_each_axis(monkeypatch, at_once):
    monkeypatch.setattr("pipeline.postprocessing.crf.lattice._BLURRED_AT_ONCE", at_once)
    axes = (Axis(0, 9, 1.3), Axis(0, 2, 3.0), Axis(0, 8, 1.0))
    lattice = Lattice(axes, (6,), CPU, torch.float64)
    assert lattice.sizes == (8, 2, 9, 6)
    generator = torch.Generator().manual_seed(0)
    grid_GW = torch.rand(lattice.num_cells, 2, dtype=torch.float64, generator=generator)
    expected = grid_GW.numpy().reshape(*lattice.sizes, 2).copy()
    for axis in range(4):
        expected = ndimage.correlate1d(expected, TAPS, axis=axis, mode="constant")
    blur(lattice, grid_GW)
    np.testing.assert_allclose(grid_GW.view(*lattice.sizes, 2).numpy(), expected, rtol=1e-12)


def test_cells_by_hand():
    """Voxels 5 to 9 at 2.5 voxels a cell lie in cells 2 and 3 and spread to 4, too."""
    axis = Axis(5, 5, 2.5)
    assert (axis.first_cell, axis.num_cells) == (2, 3)
    cell, part = axis.places(CPU, torch.float64)
    assert cell.tolist() == [0, 0, 0, 1, 1]
    np.testing.assert_allclose(part.numpy(), [0, 0.4, 0.8, 0.2, 0.6], atol=1e-12)


def test_sizes_and_strides_with_intensity_last():
    lattice = Lattice((Axis(0, 5, 2.0), Axis(0, 3, 1.0), Axis(0, 1, 9.0)), (7, 3), CPU)
    assert lattice.sizes == (4, 4, 2, 7, 3)
    assert lattice.strides == (168, 42, 21, 3, 1)
    assert lattice.num_cells == 672


@pytest.mark.parametrize("cell_voxels", [1.0, 2.3, 4.0, 11.0])
@pytest.mark.parametrize("ends", [(0, 3), (25, 31), (57, 60), (0, 60)])
def test_the_part_around_a_box_gives_what_the_whole_gives(cell_voxels, ends):
    """Rows in the box hear all voxels of the volume by the whole, those around it by the part."""
    num_voxels = 60
    whole = line(num_voxels, cell_voxels)
    part = whole.around((ends, (0, 1), (0, 1)))
    axis = part.axes[0]
    cells_of_box = math.floor((ends[1] - 1) / cell_voxels) - math.floor(ends[0] / cell_voxels) + 1
    assert axis.num_cells <= cells_of_box + 2 * (REACH + 1) + 1, "no more than it takes"
    values_N = torch.rand(num_voxels, generator=torch.Generator().manual_seed(1))
    index_N3 = torch.zeros(num_voxels, 3, dtype=torch.int64)
    index_N3[:, 0] = torch.arange(num_voxels)
    in_part = slice(axis.first, axis.first + axis.num_voxels)
    of_whole = filtered(whole, index_N3, values_N)[ends[0] : ends[1]]
    index_N3[:, 0] -= axis.first
    of_part = filtered(part, index_N3[in_part], values_N[in_part])
    of_part = of_part[ends[0] - axis.first : ends[1] - axis.first]
    np.testing.assert_allclose(of_part, of_whole, rtol=1e-12)


def test_ones_without_rows_equal_those_of_all_rows():
    axes = (Axis(3, 8, 2.3), Axis(0, 5, 0.7), Axis(2, 9, 4.0))
    lattice = Lattice(axes, (), CPU, torch.float64)
    places = torch.tensor(list(np.ndindex(*(axis.num_voxels for axis in axes)))).short()
    rows = torch_kernels.place(lattice, places, torch.empty(len(places), 0, dtype=torch.float64))
    expected_G1 = torch.zeros(lattice.num_cells, 1, dtype=torch.float64)
    rows.splat(torch.ones(len(places), 1, dtype=torch.float64), expected_G1)
    np.testing.assert_allclose(splat_ones(lattice), expected_G1, atol=1e-12)


def test_scratch_is_used_again_and_empty():
    scratch, large, small = Scratch(), line(40, 1.0), line(10, 1.0)
    first = scratch.zeros(large, 2)
    assert first.shape == (large.num_cells, 2)
    assert first.dtype == torch.float64
    first.fill_(5)
    second = scratch.zeros(small, 4)
    assert second.shape == (small.num_cells, 4)
    assert second.data_ptr() == first.data_ptr()
    assert not second.any()
    larger = scratch.zeros(large, 8)
    assert larger.shape == (large.num_cells, 8)
    assert not larger.any()
