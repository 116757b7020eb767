import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist

from pipeline.evaluation.measures import (
    assd_mm,
    hd95_mm,
    largest_cosine,
    nsd,
    surface_distances,
    surface_mask,
)
from pipeline.volume import Grid

SPACINGS = [(1.0, 1.0, 1.0), (0.7, 1.3, 3.0)]


def cube(start, size=5, shape=(20, 20, 20)):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(s, s + size) for s in start)] = True
    return mask


def blob(seed, shape=(14, 13, 12)):
    """A random mask with structure, which reaches the border of the volume."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.2)
    return noise > np.quantile(noise, 0.6)


def ball(radius, centre, shape):
    grid = np.ogrid[tuple(slice(0, n) for n in shape)]
    return sum((x - c) ** 2 for x, c in zip(grid, centre, strict=True)) <= radius**2


def brute_surface(mask):
    """Voxels with a face neighbour outside, one voxel at a time."""
    steps = np.vstack([np.eye(3, dtype=int), -np.eye(3, dtype=int)])
    padded = np.pad(mask, 1)
    inside = {tuple(v) for v in np.argwhere(padded)}
    voxels = [v for v in sorted(inside) if any(tuple(np.add(v, s)) not in inside for s in steps)]
    return np.array(voxels) - 1


def brute_readings(prediction, reference, spacing, tolerance):
    distances = cdist(brute_surface(prediction) * spacing, brute_surface(reference) * spacing)
    forth, back = distances.min(axis=1), distances.min(axis=0)
    pooled = [*forth, *back]
    hd95 = max(np.percentile(forth, 95), np.percentile(back, 95))
    return hd95, np.mean(pooled), sum(d <= tolerance for d in pooled) / len(pooled)


def readings(prediction, reference, spacing, tolerance):
    distances = surface_distances(prediction, reference, spacing)
    return hd95_mm(distances), assd_mm(distances), nsd(distances, tolerance)


def test_cube_shifted_by_two_voxels():
    # Of the 98 surface voxels of a cube of side 5, shifted by 2 along I with 3 mm voxels:
    # planes 0 and 1 lie outside the other cube. Plane 0 (25 voxels) is 2 voxels from it, plane 1
    # (16 rim voxels) 1 voxel. Plane 2 holds 16 rim voxels that lie on the other's surface, planes
    # 3 and 4 lie inside the other: their rims (16, and 16 of plane 4) on its surface, and the
    # 9 inner voxels of plane 4 (index 2 of the other) are 2 voxels from plane 0 of the other and
    # from its sides, but their distances across are 1 mm voxels: 8 are 1 mm away, the middle 2 mm.
    distances = surface_distances(cube((5, 5, 5)), cube((7, 5, 5)), (3.0, 1.0, 1.0))
    expected = [6.0] * 25 + [3.0] * 16 + [0.0] * 48 + [1.0] * 8 + [2.0]
    for directed in (
        distances.prediction_to_reference_mm,
        distances.reference_to_prediction_mm,
    ):
        np.testing.assert_allclose(np.sort(directed), np.sort(expected))
    assert hd95_mm(distances) == pytest.approx(6.0)
    assert assd_mm(distances) == pytest.approx((25 * 6 + 16 * 3 + 8 + 2) / 98)
    assert nsd(distances, 1.0) == pytest.approx(56 / 98)
    assert nsd(distances, 2.9) == pytest.approx(57 / 98)
    assert nsd(distances, 3.0) == pytest.approx(73 / 98)


@pytest.mark.parametrize(("axis", "spacing_mm"), [(0, 0.5), (1, 2.0), (2, 4.0)])
def test_single_voxels_measure_the_spacing_of_their_axis(axis, spacing_mm):
    other = [3, 3, 3]
    other[axis] += 4
    prediction, reference = cube((3, 3, 3), size=1), cube(other, size=1)
    hd95, assd, surface_dice = readings(prediction, reference, (0.5, 2.0, 4.0), 1.0)
    assert hd95 == assd == pytest.approx(4 * spacing_mm)
    assert surface_dice == 0


def test_hd95_takes_the_worse_direction():
    # 1 of 2 reference voxels is 9 mm off: 95 % of the way from 0 to 9. Pooled it would be smaller.
    reference = cube((3, 3, 3), size=1) | cube((12, 3, 3), size=1)
    distances = surface_distances(cube((3, 3, 3), size=1), reference, (1.0, 1.0, 1.0))
    assert hd95_mm(distances) == pytest.approx(0.95 * 9)
    assert assd_mm(distances) == pytest.approx(9 / 3)


def test_border_of_the_volume_is_a_surface():
    assert surface_mask(np.ones((4, 4, 4), bool)).sum() == 64 - 8
    assert surface_mask(np.ones((6, 5, 1), bool)).all()


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_brute_force(seed, spacing):
    prediction, reference = blob(seed), blob(seed + 50)
    ours = readings(prediction, reference, spacing, 1.5)
    np.testing.assert_allclose(
        ours, brute_readings(prediction, reference, spacing, 1.5), atol=1e-12
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_monai(seed, spacing):
    # MONAI 1.6.1; it rounds to float32.
    metrics = pytest.importorskip("monai.metrics")
    torch = pytest.importorskip("torch")
    prediction, reference = blob(seed), blob(seed + 50)
    pair = [torch.from_numpy(m)[None, None].float() for m in (prediction, reference)]
    options = {"include_background": True, "spacing": list(spacing)}
    theirs = (
        metrics.compute_hausdorff_distance(*pair, percentile=95, **options).item(),
        metrics.compute_average_surface_distance(*pair, symmetric=True, **options).item(),
        metrics.compute_surface_dice(*pair, class_thresholds=[1.5], **options).item(),
    )
    np.testing.assert_allclose(readings(prediction, reference, spacing, 1.5), theirs, atol=1e-5)


def test_close_to_the_spheres_that_were_sampled():
    # The distance from a point on one sphere to another sphere is |distance to centre - radius|.
    first, second = np.array([25.0, 24.0, 23.0]), np.array([22.0, 25.0, 26.0])
    n = np.arange(20000) + 0.5
    height, turn = 1 - n / 10000, np.pi * (1 + 5**0.5) * n
    ring = np.sqrt(1 - height**2)
    unit = np.stack([ring * np.cos(turn), ring * np.sin(turn), height], axis=1)
    forth = abs(np.linalg.norm(first + 15 * unit - second, axis=1) - 17)
    back = abs(np.linalg.norm(second + 17 * unit - first, axis=1) - 15)
    shape = (50, 50, 50)
    hd95, assd, _ = readings(ball(15, first, shape), ball(17, second, shape), SPACINGS[0], 2.0)
    assert hd95 == pytest.approx(max(np.percentile(forth, 95), np.percentile(back, 95)), abs=0.3)
    area = np.array([15**2, 17**2])
    assert assd == pytest.approx(np.average([forth.mean(), back.mean()], weights=area), abs=0.15)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("spacing", [SPACINGS[0], (0.8, 1.0, 1.5)])
def test_close_to_surface_distance_package(spacing):
    # surface-distance 0.1 puts area-weighted elements at voxel corners, on both sides of the
    # surface, so its distances are shorter by a fraction of a voxel.
    judge = pytest.importorskip("surface_distance")
    shape = (50, 50, 50)
    prediction, reference = ball(15, (25, 24, 23), shape), ball(17, (22, 25, 26), shape)
    found = judge.compute_surface_distances(reference, prediction, spacing)
    hd95, assd, surface_dice = readings(prediction, reference, spacing, 2.0)
    assert hd95 == pytest.approx(judge.compute_robust_hausdorff(found, 95), abs=0.5)
    forth, back = judge.compute_average_surface_distance(found)
    assert assd == pytest.approx((forth + back) / 2, abs=0.5)
    theirs = judge.compute_surface_dice_at_tolerance(found, 2.0)
    assert surface_dice == pytest.approx(theirs, abs=0.1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_equals_surface_distance_package_on_far_flat_faces():
    # Every 95th percentile element lies on the far faces, which are exactly 12 voxels apart.
    judge = pytest.importorskip("surface_distance")
    prediction, reference = cube((2, 5, 5)), cube((14, 5, 5))
    found = judge.compute_surface_distances(reference, prediction, (1.5, 1.0, 1.0))
    hd95, _, _ = readings(prediction, reference, (1.5, 1.0, 1.0), 1.0)
    assert hd95 == judge.compute_robust_hausdorff(found, 95) == pytest.approx(12 * 1.5)


def test_rounded_spacing_does_not_flip_the_tolerance():
    prediction, reference = cube((5, 5, 5)), cube((6, 5, 5))
    exact = surface_distances(prediction, reference, (1.0, 1.0, 1.0))
    rounded = surface_distances(prediction, reference, (1.0000001, 1.0000001, 1.0000001))
    assert nsd(exact, 1.0) == nsd(rounded, 1.0) == 1.0
    assert nsd(exact, 0.999) < 1.0


@settings(max_examples=25, deadline=None)
@given(
    first=st.integers(0, 200),
    second=st.integers(201, 400),
    axis=st.integers(0, 2),
    scale=st.floats(0.2, 5),
)
def test_properties(first, second, axis, scale):
    prediction, reference = blob(first, (9, 8, 7)), blob(second, (9, 8, 7))
    spacing = (0.7, 1.3, 3.0)
    hd95, assd, surface_dice = readings(prediction, reference, spacing, 1.0)
    swapped = readings(reference, prediction, spacing, 1.0)
    flipped = readings(np.flip(prediction, axis), np.flip(reference, axis), spacing, 1.0)
    np.testing.assert_allclose(swapped, (hd95, assd, surface_dice))
    np.testing.assert_allclose(flipped, (hd95, assd, surface_dice))
    scaled = surface_distances(prediction, reference, tuple(scale * mm for mm in spacing))
    np.testing.assert_allclose((hd95_mm(scaled), assd_mm(scaled)), (scale * hd95, scale * assd))
    assert 0 <= surface_dice <= 1
    assert readings(prediction, prediction, spacing, 0.0) == (0, 0, 1)


@pytest.mark.parametrize("which", [0, 1])
def test_empty_mask_has_no_surface(which):
    masks = [cube((3, 3, 3)), cube((3, 3, 3))]
    masks[which][:] = False
    with pytest.raises(ValueError, match="empty mask has no surface"):
        surface_distances(*masks, (1.0, 1.0, 1.0))


def test_how_far_axes_are_from_right_angles():
    # Turned by 30 degrees about one axis, of other spacings: at right angles still.
    turned = np.eye(4)
    turned[:2, :2] = [[np.cos(0.5), -np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]]
    affine = turned @ np.diag([1.0, 2.0, 5.0, 1.0])
    assert largest_cosine(Grid((2, 2, 2), affine)) < 1e-12
    affine[:3, 2] = [0.0, 3.0, 4.0]
    expected = 3 / 5 * np.cos(0.5)
    assert largest_cosine(Grid((2, 2, 2), affine)) == pytest.approx(expected)
