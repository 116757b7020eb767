import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from pipeline.postprocessing.components import label_boxes
from pipeline.postprocessing.shape import close_gaps, fill_holes, smooth_surface
from pipeline.volume import Grid

masks = hnp.arrays(bool, (6, 5, 5))
spacings = st.tuples(*[st.sampled_from([0.5, 0.7, 1.0, 3.0])] * 3)


def apply(change, labels, amount, affine=None, spacing=(1.0, 1.0, 1.0), value=1):
    """Return a changed copy."""
    grid = Grid(labels.shape, np.diag([*spacing, 1.0]) if affine is None else affine)
    changed = labels.copy(order="K")
    for box in label_boxes(labels, {value}).values():
        change(changed, box, value, amount, grid)
    return changed


def blob(seed, shape=(20, 18, 16)):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.2)
    return (noise > np.quantile(noise, 0.6)).astype(np.uint8)


class TestFillHoles:
    @settings(deadline=None)
    @given(masks)
    def test_agrees_with_scipy(self, mask):
        found = apply(fill_holes, mask.astype(np.uint8), "3d")
        np.testing.assert_array_equal(found, ndimage.binary_fill_holes(mask))

    @settings(deadline=None)
    @given(masks, st.sampled_from([("axial", 2), ("coronal", 1), ("sagittal", 0)]))
    def test_slices_agree_with_scipy(self, mask, plane):
        name, axis = plane
        found = apply(fill_holes, mask.astype(np.uint8), name)
        slices = [ndimage.binary_fill_holes(each) for each in np.moveaxis(mask, axis, 0)]
        np.testing.assert_array_equal(found, np.stack(slices, axis))

    @pytest.mark.parametrize("seed", range(3))
    def test_agrees_with_simpleitk(self, seed):
        import SimpleITK

        labels = blob(seed)
        labels[5:12, 5:12, 5:12] = 1
        labels[8, 8, 8] = 0
        image = SimpleITK.GetImageFromArray(np.pad(labels, 1))
        expected = SimpleITK.GetArrayFromImage(SimpleITK.BinaryFillhole(image, False))
        found = apply(fill_holes, labels, "3d")
        assert found.sum() > labels.sum()
        np.testing.assert_array_equal(found, expected[1:-1, 1:-1, 1:-1])

    @pytest.mark.parametrize(
        ("rows", "plane", "axis"),
        [
            ("RAS", "axial", 2), ("LPS", "axial", 2), ("ASR", "axial", 1), ("SRA", "axial", 0),
            ("ASR", "sagittal", 2), ("ASR", "coronal", 0), ("IPL", "coronal", 1),
        ],
    )  # fmt: skip
    def test_planes_are_those_of_the_patient(self, rows, plane, axis):
        """A tube that is open at its ends has a hole only in slices across it."""
        labels = np.zeros((5, 5, 5), np.uint8)
        tube = np.moveaxis(labels, axis, 0)
        tube[:, 1:4, 1:4] = 1
        tube[:, 2, 2] = 0
        directions = {"R": (1, 0, 0), "A": (0, 1, 0), "S": (0, 0, 1)}
        directions |= {"L": (-1, 0, 0), "P": (0, -1, 0), "I": (0, 0, -1)}
        affine = np.eye(4)
        # A little oblique: the plane is the nearest one.
        tilt = np.array([[1, 0.1, -0.1], [-0.1, 1, 0.1], [0.1, -0.1, 1]])
        affine[:3, :3] = tilt @ np.array([directions[code] for code in rows]).T
        assert apply(fill_holes, labels, plane, affine).sum() == 45
        for other in {"axial", "coronal", "sagittal", "3d"} - {plane}:
            assert apply(fill_holes, labels, other, affine).sum() == 40

    def test_only_background_is_filled(self):
        labels = np.zeros((5, 5, 6), np.uint8)
        labels[0:5, 0:5, 0:5] = 1
        labels[2, 2, 2:4] = 0, 2
        found = apply(fill_holes, labels, "3d")
        assert found[2, 2].tolist() == [1, 1, 1, 2, 1, 0]

    def test_a_hole_at_the_border_is_none(self):
        labels = np.ones((3, 3, 3), np.uint8)
        labels[1, 1, 0] = 0
        np.testing.assert_array_equal(apply(fill_holes, labels, "3d"), labels)


def ellipsoid(radius_mm, spacing):
    reach = [int(np.floor(radius_mm / s + 1e-9)) for s in spacing]
    steps = np.meshgrid(*[np.arange(-r, r + 1) for r in reach], indexing="ij")
    squares = sum((step * s) ** 2 for step, s in zip(steps, spacing, strict=True))
    return squares <= radius_mm**2 * (1 + 1e-6)


class TestCloseGaps:
    @settings(deadline=None)
    @given(masks, spacings, st.sampled_from([0.4, 1.0, 1.5, 2.1]))
    def test_agrees_with_scipy(self, mask, spacing, radius):
        found = apply(close_gaps, mask.astype(np.uint8), radius, spacing=spacing)
        ball = ellipsoid(radius, spacing)
        expected = ndimage.binary_closing(np.pad(mask, 8), ball)[8:-8, 8:-8, 8:-8]
        np.testing.assert_array_equal(found, expected)

    @settings(deadline=None)
    @given(masks, spacings, st.sampled_from([0.4, 1.0, 1.5, 2.1]))
    def test_is_the_same_without_simpleitk(self, mask, spacing, radius):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "SimpleITK", None)
            found = apply(close_gaps, mask.astype(np.uint8), radius, spacing=spacing)
        expected = apply(close_gaps, mask.astype(np.uint8), radius, spacing=spacing)
        np.testing.assert_array_equal(found, expected)

    @pytest.mark.parametrize("seed", range(2))
    def test_agrees_with_simpleitk(self, seed):
        import SimpleITK

        labels = blob(seed)
        image = SimpleITK.GetImageFromArray(labels)
        # Its kernel of radius 1 is a voxel and its six neighbours.
        closed = SimpleITK.BinaryMorphologicalClosing(image, [1, 1, 1], SimpleITK.sitkCross)
        expected = SimpleITK.GetArrayFromImage(closed)
        assert expected.sum() > labels.sum()
        np.testing.assert_array_equal(apply(close_gaps, labels, 1.0), expected)

    @pytest.mark.parametrize(
        ("axis", "radius", "closed"),
        [(0, 0.9, False), (0, 1.0, True), (1, 1.9, False), (1, 2.0, True), (2, 2.9, False),
         (2, 3.0, True)],
    )  # fmt: skip
    def test_a_gap_in_mm(self, axis, radius, closed):
        """A gap of one voxel between two blocks closes by a ball that reaches one voxel."""
        labels = np.zeros((9, 9, 9), np.uint8)
        labels[1:8, 1:8, 1:8] = 1
        np.moveaxis(labels, axis, 0)[4] = 0
        found = apply(close_gaps, labels, radius, spacing=(1.0, 2.0, 3.0))
        # The middle of the gap's plane; its rim stays open.
        assert bool(found[4, 4, 4]) == closed

    def test_only_background_is_taken(self):
        labels = np.zeros((9, 9, 9), np.uint8)
        labels[1:8, 1:8, 1:8] = 1
        labels[4] = 0
        labels[4, 4, 4] = 2
        found = apply(close_gaps, labels, 1.0)
        assert found[4, 4, 3:6].tolist() == [1, 2, 1]

    def test_a_label_at_the_border_keeps_its_shape(self):
        labels = np.zeros((6, 6, 6), np.uint8)
        labels[0, 0, :] = 1
        np.testing.assert_array_equal(apply(close_gaps, labels, 2.0), labels)


def weights(sigma_mm, spacing):
    """Return a Gaussian that is cut off at three standard deviations, rounded up, of each axis."""
    parts = []
    for s in spacing:
        reach = int(np.ceil(3 * sigma_mm / s))
        part = np.exp(-0.5 * (np.arange(-reach, reach + 1) * s / sigma_mm) ** 2)
        parts.append(part / part.sum())
    return np.einsum("i,j,k->ijk", *parts)


class TestSmoothSurface:
    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 1.1, 2.5)])
    def test_the_heavier_one_wins(self, seed, spacing):
        """Agrees with weighing each voxel's surroundings."""
        rng = np.random.default_rng(seed)
        labels = blob(seed) * rng.choice([1, 1, 2], (20, 18, 16)).astype(np.uint8)
        labels[:, :9] = np.minimum(labels[:, :9], 1)
        kernel = weights(1.3, spacing)
        balance = ndimage.convolve(
            (labels == 1).astype(float) - (labels == 0), kernel, mode="constant"
        )
        assert np.abs(balance).min() > 1e-6
        expected = np.where(labels == 2, 2, balance > 0)
        found = apply(smooth_surface, labels, 1.3, spacing=spacing)
        assert (found != labels).any()
        np.testing.assert_array_equal(found, expected)

    def test_a_plane_stays_and_a_speck_goes(self):
        labels = np.zeros((12, 12, 12), np.uint8)
        labels[:6] = 1
        expected = labels.copy()
        labels[9, 6, 6] = 1
        labels[3, 6, 6] = 0
        np.testing.assert_array_equal(apply(smooth_surface, labels, 1.0), expected)

    def test_the_surface_to_another_label_does_not_move(self):
        labels = np.zeros((16, 16, 16), np.uint8)
        labels[4:12, 4:12, 4:12] = 1
        labels[8:12, 4:12, 4:12] = 2
        found = apply(smooth_surface, labels, 1.5)
        np.testing.assert_array_equal(found == 2, labels == 2)
        # Where the two meet the label goes on to the other one; its corners to background go.
        assert (found[7, 6:10, 6:10] == 1).all()
        assert found[4, 4, 4] == 0

    def test_a_label_cut_off_by_the_border_stays_there(self):
        labels = np.zeros((12, 9, 9), np.uint8)
        labels[:5] = 1
        np.testing.assert_array_equal(apply(smooth_surface, labels, 2.0), labels)

    def test_all_that_a_voxel_sees_counts(self):
        """Also background that lies further from the label than the Gaussian reaches."""
        labels = np.full((9, 9, 9), 2, np.uint8)
        labels[2, 4:7, 4] = 1
        labels[3, 4, 4] = 0
        # By weights of voxels: 0.0385 + 0.0234 + 0.0052 of the label, 0.0635 of background.
        assert apply(smooth_surface, labels, 1.0)[3, 4, 4] == 1
        # 0.0044 more of background tip the balance.
        labels[6] = 0
        assert apply(smooth_surface, labels, 1.0)[3, 4, 4] == 0

    def test_mm(self):
        """A plate of 3 mm goes where the Gaussian is wide against it, and only there."""
        labels = np.zeros((31, 3, 3), np.uint8)
        labels[14:17] = 1
        assert apply(smooth_surface, labels, 1.5).any()
        assert not apply(smooth_surface, labels, 3.0).any()
        assert apply(smooth_surface, labels, 3.0, spacing=(2.0, 1.0, 1.0)).any()
