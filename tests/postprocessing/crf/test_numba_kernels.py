import numpy as np
import pytest
import torch

numba_kernels = pytest.importorskip("pipeline.postprocessing.crf.numba_kernels")

from pipeline.postprocessing.crf import torch_kernels  # noqa: E402
from pipeline.postprocessing.crf.problem import WIDTHS  # noqa: E402

from .kernel_checks import KernelChecks, make_lattice, make_rows  # noqa: E402


class TestNumba(KernelChecks):
    kernels = numba_kernels


def test_there_is_code_for_all_widths_of_groups():
    assert set(numba_kernels.WIDTHS) == set(WIDTHS)


def test_many_rows_equal_those_of_torch():
    """The other backend sums in another order, so only up to rounding."""
    num_rows = 30_000
    lattice, rows = make_lattice(2), make_rows(2, num_rows)
    generator = torch.Generator().manual_seed(0)
    values_NW = torch.rand(num_rows, 4, generator=generator)
    grids, found = [], []
    for kernels in (numba_kernels, torch_kernels):
        placed = kernels.place(lattice, *rows)
        grid_GW, found_NW = torch.zeros(lattice.num_cells, 4), torch.zeros(num_rows, 4)
        placed.splat(values_NW, grid_GW)
        placed.gather(grid_GW, torch.ones(num_rows), found_NW)
        grids.append(grid_GW.numpy())
        found.append(found_NW.numpy())
    np.testing.assert_allclose(*grids, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-4)


def test_rows_and_values_need_not_be_contiguous():
    lattice, (index_N3, feature_NM) = make_lattice(1), make_rows(1)
    strided = torch.stack([index_N3, -index_N3], dim=2)[:, :, 0]
    assert not strided.is_contiguous()
    grids = []
    for index in (index_N3, strided):
        grid_G1 = torch.zeros(lattice.num_cells, 1)
        numba_kernels.place(lattice, index, feature_NM).splat(torch.ones(len(index), 1), grid_G1)
        grids.append(grid_G1)
    assert torch.equal(*grids)
