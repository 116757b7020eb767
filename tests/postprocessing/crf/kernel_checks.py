"""What each backend must compute: plain sums over rows and corners, in any number of columns."""

import itertools
import math

import numpy as np
import pytest
import torch

from pipeline.postprocessing.crf.lattice import Axis, Lattice, Slab

CPU = torch.device("cpu")
AXES = (Axis(0, 9, 2.3), Axis(3, 7, 1.0), Axis(2, 11, 4.0))
NUM_ROWS = 150
CELLS = (5, 4)
"""Cell borders of up to two channels."""


def make_lattice(num_channels=0, dtype=torch.float32):
    return Lattice(AXES, CELLS[:num_channels], CPU, dtype)


def make_rows(num_channels, num_rows=NUM_ROWS, dtype=torch.float32):
    """Return random voxels of the lattice, some of them more than once, and their intensities."""
    rng = np.random.default_rng(num_rows)
    index_N3 = rng.integers(0, [axis.num_voxels for axis in AXES], (num_rows, 3))
    feature_NM = rng.random((num_rows, num_channels)) * (np.array(CELLS[:num_channels]) - 1.001)
    return torch.tensor(index_N3, dtype=torch.int16), torch.tensor(feature_NM, dtype=dtype)


def interpolation_matrix(lattice, index_N3, feature_NM):
    """Return `(N, G)` the weight of each row at each cell, one product after the other."""
    matrix_NG = np.zeros((len(index_N3), math.prod(lattice.sizes)))
    for row, (index_3, feature_M) in enumerate(
        zip(index_N3.tolist(), feature_NM.tolist(), strict=True)
    ):
        places = [
            (axis.first + index) / axis.cell_voxels - math.floor(axis.first / axis.cell_voxels)
            for axis, index in zip(lattice.axes, index_3, strict=True)
        ]
        places += feature_M
        for corner in itertools.product((0, 1), repeat=len(places)):
            cells = [math.floor(place) + side for place, side in zip(places, corner, strict=True)]
            parts = [place - math.floor(place) for place in places]
            weight = math.prod(p if side else 1 - p for p, side in zip(parts, corner, strict=True))
            matrix_NG[row, np.ravel_multi_index(cells, lattice.sizes)] += weight
    return matrix_NG


def make_slab(num_channels, num_planes=4):
    """Return planes 3 to 6 of the lattice's voxels: classes 0 to 4, of which 4 is the band's."""
    rng = np.random.default_rng(7)
    shape = (num_planes, AXES[1].num_voxels, AXES[2].num_voxels)
    cells = np.array(CELLS[:num_channels]).reshape(-1, 1, 1, 1)
    feature_MIJK = rng.random((num_channels, *shape)) * (cells - 1.001)
    class_IJK = rng.integers(0, 5, shape).astype(np.uint8)
    weight_IJK = rng.random(shape).astype(np.float32) + 0.5
    features = torch.tensor(feature_MIJK, dtype=torch.float32)
    return Slab(3, features, torch.tensor(class_IJK), torch.tensor(weight_IJK))


class KernelChecks:
    """To be inherited by the tests of a backend, the module `kernels`."""

    kernels = None

    def random_values(self, lattice, width, num_rows=NUM_ROWS):
        generator = torch.Generator().manual_seed(width)
        values_NW = torch.rand(num_rows, width, generator=generator, dtype=lattice.dtype)
        grid_GW = torch.rand(lattice.num_cells, width, generator=generator, dtype=lattice.dtype)
        return values_NW - 0.3, grid_GW - 0.3

    @pytest.mark.parametrize("num_channels", [0, 1, 2])
    @pytest.mark.parametrize("width", [1, 2, 4, 8])
    def test_rows_equal_plain_sums(self, num_channels, width):
        lattice, rows = make_lattice(num_channels), make_rows(num_channels)
        matrix_NG = interpolation_matrix(lattice, *rows)
        values_NW, grid_GW = self.random_values(lattice, width)
        placed = self.kernels.place(lattice, *rows)
        # Both add to what is there.
        splatted_GW = grid_GW.clone()
        placed.splat(values_NW, splatted_GW)
        expected = grid_GW.numpy() + matrix_NG.T @ values_NW.numpy()
        np.testing.assert_allclose(splatted_GW.numpy(), expected, atol=1e-5)
        scale_N = torch.linspace(0.5, 2, NUM_ROWS)
        gathered_NW = values_NW.clone()
        placed.gather(grid_GW, scale_N, gathered_NW)
        expected = values_NW.numpy() + scale_N[:, None].numpy() * (matrix_NG @ grid_GW.numpy())
        np.testing.assert_allclose(gathered_NW.numpy(), expected, atol=1e-5)

    @pytest.mark.parametrize("num_channels", [0, 1, 2])
    def test_weights_of_a_row_sum_to_one(self, num_channels):
        lattice = make_lattice(num_channels)
        placed = self.kernels.place(lattice, *make_rows(num_channels))
        grid_G1 = torch.zeros(lattice.num_cells, 1)
        placed.splat(torch.ones(NUM_ROWS, 1), grid_G1)
        assert float(grid_G1.sum()) == pytest.approx(NUM_ROWS, rel=1e-6)
        found_N1 = torch.zeros(NUM_ROWS, 1)
        placed.gather(torch.ones_like(grid_G1), torch.ones(NUM_ROWS), found_N1)
        np.testing.assert_allclose(found_N1.numpy(), 1, rtol=1e-6)

    @pytest.mark.parametrize("num_channels", [0, 1, 2])
    def test_reading_is_adjoint_to_spreading(self, num_channels):
        lattice = make_lattice(num_channels)
        values_NW, grid_GW = self.random_values(lattice, 4)
        placed = self.kernels.place(lattice, *make_rows(num_channels))
        splatted_GW, gathered_NW = torch.zeros_like(grid_GW), torch.zeros_like(values_NW)
        placed.splat(values_NW, splatted_GW)
        placed.gather(grid_GW, torch.ones(NUM_ROWS), gathered_NW)
        left = (splatted_GW.double() * grid_GW.double()).sum()
        right = (values_NW.double() * gathered_NW.double()).sum()
        assert float(left) == pytest.approx(float(right), rel=1e-5)

    @pytest.mark.parametrize("num_channels", [0, 1])
    def test_no_rows_add_nothing(self, num_channels):
        lattice = make_lattice(num_channels)
        placed = self.kernels.place(lattice, *make_rows(num_channels, num_rows=0))
        grid_GW, values_NW = torch.ones(lattice.num_cells, 2), torch.zeros(0, 2)
        placed.splat(values_NW, grid_GW)
        placed.gather(grid_GW, torch.ones(0), values_NW)
        assert (grid_GW == 1).all()

    @pytest.mark.parametrize("num_channels", [0, 1, 2])
    @pytest.mark.parametrize("is_weighted", [False, True])
    @pytest.mark.parametrize("width", [1, 2, 4])
    def test_slabs_equal_plain_sums(self, num_channels, is_weighted, width):
        """Voxels of class 0 and those of the band, 4, are left out; the others have a column."""
        lattice, slab = make_lattice(num_channels), make_slab(num_channels)
        if not is_weighted:
            slab = Slab(slab.first_plane, slab.feature_MIJK, slab.class_IJK)
        columns = [-1, 0, width - 1, width // 2, -1]
        grid_GW = torch.ones(lattice.num_cells, width)
        column_C = torch.tensor(columns, dtype=torch.int8)
        self.kernels.splat_volume(lattice, slab, column_C, grid_GW)
        index_N3 = np.argwhere(slab.class_IJK.numpy() >= 0)
        feature_NM = slab.feature_MIJK.reshape(num_channels, len(index_N3)).T
        matrix_NG = interpolation_matrix(lattice, index_N3 + np.array([3, 0, 0]), feature_NM)
        weights = np.ones(len(index_N3))
        if is_weighted:
            weights = slab.weight_IJK.numpy().ravel()
        expected_GW = np.ones(grid_GW.shape)
        for row, class_ in enumerate(slab.class_IJK.numpy().ravel()):
            if columns[class_] >= 0:
                expected_GW[:, columns[class_]] += weights[row] * matrix_NG[row]
        np.testing.assert_allclose(grid_GW.numpy(), expected_GW, atol=2e-5)

    def test_a_slab_without_any_class_asked_for_adds_nothing(self):
        lattice, slab = make_lattice(1), make_slab(1)
        grid_G1 = torch.zeros(lattice.num_cells, 1)
        none = torch.full((5,), -1, dtype=torch.int8)
        self.kernels.splat_volume(lattice, slab, none, grid_G1)
        assert not grid_G1.any()

    def test_a_part_of_the_lattice_holds_the_same_sums(self):
        """Rows in a box, on the cells around it, whose own first voxel is not the volume's."""
        axes = (Axis(0, 30, 2.3), Axis(0, 30, 1.7), Axis(0, 30, 3.0))
        whole = Lattice(axes, (), CPU)
        part = whole.around(((14, 18), (15, 17), (20, 22)))
        first = torch.tensor([axis.first for axis in part.axes], dtype=torch.int16)
        assert (first > 0).all()
        index_N3 = torch.tensor([[14, 15, 20], [17, 16, 21], [15, 16, 20]], dtype=torch.int16)
        feature_NM = torch.empty(3, 0)
        grids = []
        for lattice, rows in ((whole, index_N3), (part, index_N3 - first)):
            grid_G1 = torch.zeros(lattice.num_cells, 1)
            values_N1 = torch.tensor([[1.0], [2.0], [3.0]])
            self.kernels.place(lattice, rows, feature_NM).splat(values_N1, grid_G1)
            grids.append(grid_G1.view(lattice.sizes).numpy())
        i, j, k = (
            slice(axis.first_cell, axis.first_cell + size)
            for axis, size in zip(part.axes, part.sizes, strict=True)
        )
        np.testing.assert_allclose(grids[0][i, j, k], grids[1], atol=1e-6)
        assert grids[0].sum() == pytest.approx(grids[1].sum()) == pytest.approx(6)
