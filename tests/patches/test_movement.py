import numpy as np
import pytest
import torch
from monai.transforms import Affine
from scipy import ndimage
from scipy.interpolate import BSpline

from pipeline.patches.movement import (
    Bending,
    Movement,
    displacements,
    move,
    num_controls,
    spline_basis,
)
from pipeline.volume import IGNORE_INDEX

CPU = torch.device("cpu")
REGION, SIZE = (20, 26, 15), (14, 18, 11)


@pytest.fixture
def regions():
    rng = np.random.default_rng(0)
    image = ndimage.gaussian_filter(rng.normal(size=(3, 2, *REGION)), (0, 0, 1, 1, 1))
    label = rng.integers(-1, 300, (3, *REGION)).astype(np.int16)
    return torch.from_numpy(image.astype(np.float32)), torch.from_numpy(label)


def by_hand(image_CIJK, label_IJK, places):
    """Interpolate with scipy at places given as voxels of the region."""
    image = [ndimage.map_coordinates(c, places, order=1, mode="nearest") for c in image_CIJK]
    clipped = [np.clip(np.rint(p), 0, n - 1).astype(int) for p, n in zip(places, REGION)]  # noqa: B905
    return np.stack(image), label_IJK[tuple(clipped)]


def offsets(size):
    return np.stack(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in size), indexing="ij"))


def compare(found, image_CIJK, label_IJK, places):
    image, label = by_hand(image_CIJK.numpy(), label_IJK.numpy(), places)
    np.testing.assert_allclose(found[0], image, atol=1e-4)
    # Halfway between voxels, rounding errors decide which is the nearest.
    fraction = np.abs(places % 1 - 0.5).min(axis=0)
    assert (found[1].numpy() == label)[fraction > 1e-3].all()


TURNED = np.array([[0.9, 0.3, -0.1], [-0.2, 1.1, 0.1], [0.1, 0.05, 0.8]])


@pytest.mark.parametrize("flips", [(), (0,), (1, 2)])
def test_a_matrix_takes_offsets_to_where_scipy_looks(regions, flips):
    image, label = regions
    found = move(image[:1], label[:1], [Movement(flips, None, TURNED)], SIZE)
    signs = np.array([-1 if axis in flips else 1 for axis in range(3)]).reshape(3, 1, 1, 1)
    places = np.tensordot(TURNED, signs * offsets(SIZE), 1)
    places += (np.array(REGION).reshape(3, 1, 1, 1) - 1) / 2
    compare((found[0][0], found[1][0]), image[0], label[0], places)


def test_a_matrix_is_what_monai_takes(regions):
    image, label = regions
    affine = np.eye(4)
    affine[:3, :3] = TURNED
    transform = Affine(affine=affine, spatial_size=SIZE, padding_mode="border", image_only=True)
    found, _ = move(image[:1], label[:1], [Movement(matrix=TURNED)], SIZE)
    torch.testing.assert_close(
        found[0], transform(image[0]).as_subclass(torch.Tensor), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("flips", [(), (0,), (2,), (0, 1, 2)])
@pytest.mark.parametrize("size", [(14, 18, 11), REGION, (13, 18, 12)])
def test_flips_copy_voxels(regions, flips, size):
    image, label = regions
    moved_image, moved_label = move(image, label, [Movement(flips)] * 3, size)
    i, j, k = (slice((r - n) // 2, (r - n) // 2 + n) for r, n in zip(REGION, size, strict=True))
    np.testing.assert_array_equal(
        moved_image, np.flip(image[..., i, j, k].numpy(), [a + 2 for a in flips])
    )
    np.testing.assert_array_equal(
        moved_label, np.flip(label[..., i, j, k].numpy(), [a + 1 for a in flips])
    )
    assert moved_label.dtype == torch.int64


def test_labels_are_whole_numbers_and_what_nobody_annotated_stays_so(regions):
    image, label = regions
    label[:] = torch.where(label % 2 == 0, IGNORE_INDEX, 20_001)
    _, found = move(image, label, [Movement(matrix=TURNED)] * 3, SIZE)
    assert found.unique().tolist() == [IGNORE_INDEX, 20_001]


def test_a_patch_does_not_depend_on_its_batch(regions):
    image, label = regions
    rng = np.random.default_rng(1)
    controls = rng.normal(size=(3, *map(num_controls, SIZE, (5, 5, 5))))
    movements = [Movement((1,), Bending(controls, (5, 5, 5)), TURNED), Movement(), Movement((0,))]
    whole = move(image, label, movements, SIZE)
    for n, movement in enumerate(movements):
        alone = move(image[n : n + 1], label[n : n + 1], [movement], SIZE)
        assert torch.equal(alone[0][0], whole[0][n])
        assert torch.equal(alone[1][0], whole[1][n])


def test_regions_stay_as_they_are(regions):
    before = [part.clone() for part in regions]
    moved, _ = move(*regions, [Movement(), Movement((0,)), Movement(matrix=TURNED)], REGION)
    moved.zero_()
    assert all(map(torch.equal, regions, before))


@pytest.mark.parametrize(("num_voxels", "spacing"), [(20, 6.0), (13, 4.0), (9, 2.7), (5, 30.0)])
def test_the_spline_basis_is_scipys(num_voxels, spacing):
    found = spline_basis(num_voxels, spacing)
    knots = (np.arange(found.shape[1] + 4) - 3) * spacing
    expected = BSpline.design_matrix(np.arange(num_voxels), knots, 3).toarray()
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_displacements_are_the_tensor_product():
    spacing = (4.0, 6.5, 9.0)
    controls = np.random.default_rng(0).normal(size=(3, *map(num_controls, SIZE, spacing)))
    found = np.stack(displacements(Bending(controls, spacing), SIZE, CPU))
    i, j, k = (spline_basis(n, s) for n, s in zip(SIZE, spacing, strict=True))
    np.testing.assert_allclose(
        found, np.einsum("cxyz,ix,jy,kz->cijk", controls, i, j, k), atol=1e-5
    )


def test_bending_takes_voxels_to_where_scipy_looks(regions):
    image, label = regions
    spacing = (6.0, 6.0, 6.0)
    controls = np.random.default_rng(0).uniform(-2, 2, (3, *map(num_controls, SIZE, spacing)))
    bending = Bending(controls, spacing)
    found = move(image[:1], label[:1], [Movement(bending=bending)], SIZE)
    places = offsets(SIZE) + np.stack(displacements(bending, SIZE, CPU))
    places += (np.array(REGION).reshape(3, 1, 1, 1) - 1) / 2
    compare((found[0][0], found[1][0]), image[0], label[0], places)


def test_control_points_that_move_by_less_than_two_fifths_fold_nothing():
    size, spacing = (25, 25, 25), (5.0, 5.0, 5.0)
    for seed in range(5):
        signs = np.random.default_rng(seed).choice(
            [-2.0, 2.0], (3, *map(num_controls, size, spacing))
        )
        field = np.stack(displacements(Bending(signs, spacing), size, CPU))
        jacobian = np.stack([np.stack(np.gradient(f)) for f in field + offsets(size)])
        assert np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1))).min() > 0
