import numpy as np
import pytest
import torch

from pipeline.postprocessing.crf import torch_kernels

from .kernel_checks import (
    NUM_ROWS,
    KernelChecks,
    interpolation_matrix,
    make_lattice,
    make_rows,
    make_slab,
)


class TestTorch(KernelChecks):
    kernels = torch_kernels


class TestTorchInSmallParts(KernelChecks):
    """Many more rows than are looked at together, and cells with more rows than that."""

    kernels = torch_kernels

    @pytest.fixture(autouse=True)
    def _few_at_once(self, monkeypatch):
        monkeypatch.setitem(torch_kernels.CHUNK, "cpu", 7)
        monkeypatch.setattr(torch_kernels, "SLAB", 11)


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 100])
def test_all_rows_in_one_cell(monkeypatch, chunk):
    monkeypatch.setitem(torch_kernels.CHUNK, "cpu", chunk)
    lattice = make_lattice()
    index_N3, feature_NM = torch.full((10, 3), 4, dtype=torch.int16), torch.empty(10, 0)
    values_N1 = torch.arange(10.0)[:, None]
    grid_G1 = torch.zeros(lattice.num_cells, 1)
    torch_kernels.place(lattice, index_N3, feature_NM).splat(values_N1, grid_G1)
    expected = interpolation_matrix(lattice, index_N3, feature_NM).T @ values_N1.numpy()
    np.testing.assert_allclose(grid_G1.numpy(), expected, atol=1e-5)


def test_more_rows_than_are_looked_at_together():
    num_rows = 2 * torch_kernels.CHUNK["cpu"] + 5
    lattice = make_lattice(1)
    placed = torch_kernels.place(lattice, *make_rows(1, num_rows))
    grid_G1 = torch.zeros(lattice.num_cells, 1)
    placed.splat(torch.ones(num_rows, 1), grid_G1)
    assert float(grid_G1.double().sum()) == pytest.approx(num_rows, rel=1e-5)
    found_N1 = torch.zeros(num_rows, 1)
    placed.gather(torch.ones_like(grid_G1), torch.ones(num_rows), found_N1)
    np.testing.assert_allclose(found_N1.numpy(), 1, rtol=1e-6)


def test_double_precision_is_that():
    """To 13 digits what plain sums give, which single precision is far from."""
    lattice = make_lattice(2, torch.float64)
    rows = make_rows(2, dtype=torch.float64)
    matrix_NG = interpolation_matrix(lattice, *rows)
    values_NW = torch.rand(NUM_ROWS, 2, dtype=torch.float64)
    grid_GW = torch.zeros(lattice.num_cells, 2, dtype=torch.float64)
    placed = torch_kernels.place(lattice, *rows)
    placed.splat(values_NW, grid_GW)
    np.testing.assert_allclose(grid_GW.numpy(), matrix_NG.T @ values_NW.numpy(), atol=1e-13)
    found_NW = torch.zeros_like(values_NW)
    placed.gather(grid_GW, torch.ones(NUM_ROWS, dtype=torch.float64), found_NW)
    np.testing.assert_allclose(found_NW.numpy(), matrix_NG @ grid_GW.numpy(), atol=1e-13)


def test_the_same_sums_come_bit_for_bit():
    lattice, slab = make_lattice(1), make_slab(1)
    column_C = torch.tensor([0, 1, 1, 0, -1], dtype=torch.int8)
    grids = [torch.zeros(lattice.num_cells, 2) for _ in range(2)]
    for grid_GW in grids:
        torch_kernels.splat_volume(lattice, slab, column_C, grid_GW)
    assert torch.equal(*grids)
