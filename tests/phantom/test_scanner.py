"""Grids are truthful, volumes are right, blur and noise are as stated."""

from dataclasses import replace
from itertools import pairwise

import nibabel as nib
import numpy as np
import pytest

from pipeline.phantom.scanner import AXIS_CODES, CT, MR, random_grid, render, scan
from pipeline.phantom.shapes import Anatomy, Superellipsoid, Tissue, Waves
from pipeline.volume import Grid

STILL = Waves(np.zeros((1, 3)), np.zeros(1), np.zeros((1, 3)))


def anatomy_of(*structures, tissues, background=(-1000.0,)):
    return Anatomy(structures, tissues, background, np.eye(4), STILL)


def grids(num, scanner=CT):
    centre = (100.0, -50.0, 900.0)
    return [random_grid(scanner, centre, np.random.default_rng(seed)) for seed in range(num)]


def tilt_deg(grid):
    """Angle of the rotation that is left when axes are only swapped and flipped."""
    cosines = grid.affine[:3, :3] / np.array(grid.spacing_mm)
    nearest = np.round(cosines)
    return np.degrees(np.arccos(np.clip((np.trace(cosines @ nearest.T) - 1) / 2, -1, 1)))


def test_all_48_orientations_exist():
    assert len(set(AXIS_CODES)) == 48
    for codes in AXIS_CODES:
        ornt = nib.orientations.axcodes2ornt(codes)
        assert sorted(ornt[:, 0]) == [0, 1, 2]


def test_grids_differ_in_spacing_orientation_and_obliqueness():
    many = grids(120)
    assert len({grid.axis_codes for grid in many}) >= 20
    tilts = np.array([tilt_deg(grid) for grid in many])
    assert tilts.max() <= 15.0 + 1e-3
    assert 0.2 < (tilts > 1.0).mean() < 0.6
    spacings = np.array([sorted(grid.spacing_mm) for grid in many])
    assert spacings[:, 0].min() >= 2.2 - 1e-4
    assert spacings[:, 2].max() <= 5.0 + 1e-4
    assert len({grid.shape for grid in many}) > 100
    assert all(grid.num_voxels < 8e5 for grid in many)


def test_grids_lie_around_the_subject():
    for grid in grids(40):
        middle = grid.corners_mm().mean(axis=0)
        assert np.abs(middle - (100.0, -50.0, 900.0)).max() <= 6.1


def test_the_affine_survives_the_file_exactly():
    for grid in grids(10):
        assert np.array_equal(grid.affine, grid.affine.astype(np.float32))


@pytest.mark.parametrize("seed", range(6))
def test_labelled_volume_is_the_ellipsoids(seed):
    grid = grids(6)[seed]
    centre = grid.corners_mm().mean(axis=0)
    shape = Superellipsoid(tuple(centre), (40.0, 25.0, 30.0))
    _, labels = render(anatomy_of(("a", shape), tissues={"a": Tissue((50.0,), 3)}), grid)
    expected_mm3 = 4 / 3 * np.pi * 40 * 25 * 30
    assert (labels == 3).sum() * grid.voxel_volume_mm3 == pytest.approx(expected_mm3, rel=0.01)
    found = grid.affine[:3, :3] @ np.argwhere(labels).mean(axis=0) + grid.affine[:3, 3]
    assert found == pytest.approx(centre, abs=0.2)


def test_the_later_structure_wins_and_unlabelled_ones_erase():
    tissues = {"a": Tissue((10.0,), 1), "b": Tissue((20.0,), 2), "c": Tissue((30.0,))}
    shapes = [Superellipsoid((0.0, 0.0, 0.0), (r, r, r)) for r in (30.0, 20.0, 8.0)]
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = -30
    grid = Grid((21, 21, 21), affine)
    image, labels = render(
        anatomy_of(*zip("abc", shapes, strict=True), tissues=tissues), grid, {"b": 5.0}
    )
    line = labels[10, 10, 10:]
    assert line.tolist() == [0, 0, 0, 2, 2, 2, 2, 1, 1, 1, 0]
    assert image[0, 10, 10, [10, 15, 18]].tolist() == [30.0, 25.0, 10.0]
    assert image[0, 0, 0, 0] == -1000.0


def test_surface_voxels_are_mixed_in_proportion():
    wall = Superellipsoid((-500.0, 0.0, 0.0), (500.0, 5000.0, 5000.0), exponent=8.0)
    affine = np.eye(4)
    affine[:3, 3] = (-1.25, -1, -1)
    grid = Grid((4, 3, 3), affine)
    image, _ = render(anatomy_of(("a", wall), tissues={"a": Tissue((0.0,), 1)}), grid)
    # Voxel centres at -1.25, -0.25, 0.75, 1.75 mm from a plane: shares 1, 0.75, 0, 0.
    assert image[0, :, 1, 1] == pytest.approx([0, -250, -1000, -1000], abs=5)


def test_noise_has_the_stated_size_and_is_correlated():
    empty = anatomy_of(tissues={}, background=(200.0,))
    sizes = []
    for seed in range(6):
        data = scan(empty, CT, np.random.default_rng(seed)).data_CIJK[0].astype(float) - 200
        sizes.append(data.std())
        neighbours = np.corrcoef(data[1:].ravel(), data[:-1].ravel())[0, 1]
        assert 0.2 < neighbours < 0.7
    low, high = CT.noise
    assert all(low - 0.1 <= size <= high + 0.1 for size in sizes)
    assert any(b - a > 1 for a, b in pairwise(sorted(sizes)))


def test_magnitude_noise_lifts_the_air():
    empty = anatomy_of(tissues={}, background=(0.0, 0.0))
    data = scan(empty, MR, np.random.default_rng(1)).data_CIJK
    # Mean over standard deviation of a Rayleigh distribution: sqrt(pi / (4 - pi)).
    assert data.mean() / data.std() == pytest.approx(np.sqrt(np.pi / (4 - np.pi)), rel=0.1)


@pytest.mark.parametrize("seed", range(4))
def test_a_thick_slice_is_the_mean_of_its_planes(seed):
    """A flat border at a share of a slice's thickness mixes by that share, in each orientation."""
    quiet = replace(CT, slice_mm=(20.0, 20.0), blur_mm=(0.0, 0.0), noise=(1e-3, 1e-3), planes=5)
    wall = Superellipsoid((0.0, 0.0, -500.0), (5000.0, 5000.0, 500.0), exponent=8.0)
    rendered = anatomy_of(("a", wall), tissues={"a": Tissue((0.0,), 1)})
    study = scan(rendered, replace(quiet, tissue_offset=0.0), np.random.default_rng(seed))
    grid = study.grid
    middle = (np.array(grid.shape) - 1) / 2
    axis = int(np.argmax(grid.spacing_mm))
    for place in range(grid.shape[axis]):
        voxel = np.round(middle).astype(int)
        voxel[axis] = place
        z = (grid.affine @ [*voxel, 1])[2]
        tilt = abs(grid.affine[2, axis]) / grid.spacing_mm[axis]
        share = np.clip(0.5 - z / (20.0 * tilt), 0, 1)
        # Five planes give the mean of five shares, each softened over about one plane.
        assert study.data_CIJK[0][tuple(voxel)] == pytest.approx(-1000 * (1 - share), abs=130)
        assert study.labels_IJK[tuple(voxel)] == (z < 0)
