import nibabel as nib
import numpy as np
import pytest
import torch

from pipeline.errors import StudyError
from pipeline.transforms import ChannelNormalisation, Preprocessing, preprocess, preprocess_labels
from pipeline.transforms.foreground import find_foreground
from pipeline.transforms.preprocess import normalise, to_ras
from pipeline.volume import IGNORE_INDEX, Grid, LabelMap, Volume

SHAPE = (9, 8, 7)


def inside(placement):
    """Working voxels that are not beyond the outermost native voxel centres."""
    masks = [
        (p >= 0) & (p <= axis.num_native - 1)
        for p, axis in zip(placement.native_positions(), placement.axes, strict=True)
    ]
    return (masks[0][:, None, None] & masks[1][:, None] & masks[2]).numpy()


# --- Voxels and affine cannot drift apart ---


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (3.0, 2.5, 3.5)])
def test_working_voxels_lie_where_the_working_grid_says(
    any_affine, spacing_mm, linear_volume, unscaled, world
):
    """Linear interpolation reproduces a function that is linear in world coordinates."""
    working = preprocess(linear_volume(SHAPE, any_affine), unscaled(spacing_mm))
    grid = working.placement.working
    expected = 2000 + world(grid.shape, grid.affine) @ (1, 2, 3)
    assert working.data_CIJK.shape == (1, *grid.shape)
    np.testing.assert_allclose(grid.spacing_mm, spacing_mm, rtol=1e-6)
    mask = inside(working.placement)
    assert mask.sum() > 15
    np.testing.assert_allclose(working.data_CIJK[0].numpy()[mask], expected[mask], atol=2e-3)


def test_cropped_voxels_lie_where_the_working_grid_says(affine, linear_volume, unscaled, world):
    volume = linear_volume(SHAPE, affine)
    outside = np.ones(SHAPE, bool)
    outside[2:7, 1:6, 2:5] = False
    volume.data_CIJK[0, outside] = -1000
    working = preprocess(volume, unscaled((1.3, 1.2, 1.1)))
    grid = working.placement.working
    expected = 2000 + world(grid.shape, grid.affine) @ (1, 2, 3)
    mask = inside(working.placement)
    np.testing.assert_allclose(working.data_CIJK[0].numpy()[mask], expected[mask], atol=2e-3)
    corners = grid.corners_mm().mean(axis=0)
    np.testing.assert_allclose(corners, nib.affines.apply_affine(affine, (4, 3, 3)), atol=1e-9)


def test_axes_run_to_right_front_and_head(affine, linear_volume, unscaled):
    placement = preprocess(linear_volume(SHAPE, affine), unscaled((2, 2, 2))).placement
    assert placement.ras.axis_codes == placement.working.axis_codes == "RAS"
    closest = nib.as_closest_canonical(nib.Nifti1Image(np.zeros(SHAPE, np.uint8), affine))
    assert placement.ras.shape == closest.shape
    np.testing.assert_allclose(placement.ras.affine, closest.affine)


def test_voxels_in_ras_order_are_nibabels(affine):
    data = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    closest = nib.as_closest_canonical(nib.Nifti1Image(data, affine))
    found = to_ras(torch.from_numpy(data[None]), affine)
    np.testing.assert_array_equal(found[0].numpy(), closest.get_fdata(dtype=np.float32))
    np.testing.assert_allclose(found.affine.numpy(), closest.affine)


@pytest.mark.parametrize("axis", range(3))
def test_same_study_stored_in_mirrored_voxel_order(axis, unscaled):
    affine = np.diag([2.0, 1.5, 4.0, 1.0])
    data = np.random.default_rng(0).normal(1000, 100, (1, *SHAPE)).astype(np.float32)
    flip, flipped = np.eye(4), np.ascontiguousarray(np.flip(data, axis + 1))
    flip[axis, axis], flip[axis, 3] = -1, SHAPE[axis] - 1
    first = preprocess(Volume(data, affine), unscaled((3, 3, 3)))
    second = preprocess(Volume(flipped, affine @ flip), unscaled((3, 3, 3)))
    torch.testing.assert_close(first.data_CIJK, second.data_CIJK, rtol=0, atol=0)
    assert first.placement.working.same_as(second.placement.working)


@pytest.mark.parametrize("axis", range(3))
def test_mirrored_study_gives_mirrored_voxels(axis, unscaled):
    affine = np.diag([2.0, 1.5, 4.0, 1.0])
    data = np.random.default_rng(0).normal(1000, 100, (1, *SHAPE)).astype(np.float32)
    data[:, :2] = -1000
    flipped = np.ascontiguousarray(np.flip(data, axis + 1))
    first = preprocess(Volume(data, affine), unscaled((3, 1, 3))).data_CIJK
    second = preprocess(Volume(flipped, affine), unscaled((3, 1, 3))).data_CIJK
    torch.testing.assert_close(first.flip(axis + 1), second, rtol=1e-5, atol=1e-2)


def test_equal_spacing_copies_voxels(unscaled):
    data = np.random.default_rng(0).normal(1000, 100, (2, *SHAPE)).astype(np.float32)
    before = data.copy()
    working = preprocess(Volume(data, np.eye(4)), unscaled((1, 1, 1), num_channels=2))
    np.testing.assert_array_equal(working.data_CIJK.numpy(), before)
    assert type(working.data_CIJK) is torch.Tensor
    assert working.data_CIJK.is_contiguous()
    assert not np.shares_memory(working.data_CIJK.numpy(), data)


@pytest.mark.parametrize("kind", ["ct", "mr"])
@pytest.mark.parametrize("spacing_mm", [(1, 1, 1), (2, 2, 2)])
def test_input_is_not_changed(kind, spacing_mm):
    data = np.random.default_rng(0).normal(100, 10, (1, *SHAPE)).astype(np.float32)
    before = data.copy()
    channel = ChannelNormalisation(kind=kind, low=90, high=110, mean=5, std=3)
    settings = Preprocessing(spacing_mm=spacing_mm, crop_margin_mm=0, channels=(channel,))
    preprocess(Volume(data, np.eye(4)), settings)
    np.testing.assert_array_equal(data, before)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (3.0, 3.0, 3.0), (9.0, 9.0, 9.0)])
def test_single_slice(axis, spacing_mm, linear_volume, unscaled, world):
    shape = tuple(1 if a == axis else 6 for a in range(3))
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    working = preprocess(linear_volume(shape, affine), unscaled(spacing_mm))
    grid = working.placement.working
    expected = 2000 + world(grid.shape, grid.affine) @ (1, 2, 3)
    mask = inside(working.placement)
    np.testing.assert_allclose(working.data_CIJK[0].numpy()[mask], expected[mask], atol=2e-3)
    # Beyond the only slice there is nothing but that slice.
    values = working.data_CIJK[0].movedim(axis, 0)
    torch.testing.assert_close(values, values[:1].expand_as(values))


def test_smaller_than_one_working_voxel(unscaled):
    data = np.arange(27, dtype=np.float32).reshape(1, 3, 3, 3)
    working = preprocess(Volume(data, np.eye(4)), unscaled((50, 50, 50)))
    assert working.data_CIJK.tolist() == [[[[13.0]]]]
    np.testing.assert_allclose(working.placement.working.affine[:3, 3], (1, 1, 1))


def test_absurd_spacing_is_refused_before_memory_is_taken(unscaled):
    volume = Volume(np.ones((1, 64, 64, 64), np.float32), np.diag([1000.0, 1000.0, 1000.0, 1]))
    with pytest.raises(
        StudyError,
        match=r"voxels of 1000 x 1000 x 1000 mm \(R x A x S\) become 262144000000000 of "
        r"1 x 1 x 1 mm, but only 1073741824 fit in memory\. Check the spacing in the header",
    ):
        preprocess(volume, unscaled((1, 1, 1)))


def test_number_of_channels_must_fit(unscaled):
    with pytest.raises(ValueError, match="2 channels, settings 1"):
        preprocess(Volume(np.ones((2, 3, 3, 3), np.float32), np.eye(4)), unscaled((1, 1, 1)))


# --- Foreground ---


def box_of(data, spacing_mm=(1.0, 1.0, 1.0), kinds=("ct",), margin_mm=0.0):
    data = np.asarray(data, np.float32)
    settings = Preprocessing(
        spacing_mm=spacing_mm,
        crop_margin_mm=margin_mm,
        channels=tuple(ChannelNormalisation(kind=kind) for kind in kinds),
    )
    ras = Grid(tuple(data.shape[1:]), np.diag([*spacing_mm, 1.0]))
    return find_foreground(data, ras, settings).box


def test_box_by_hand():
    data = np.full((1, 10, 10, 10), -1000.0)
    data[0, 3, 4, 5] = data[0, 6, 4, 8] = -499
    assert box_of(data) == ((3, 7), (4, 5), (5, 9))
    data[0, 0, 0, 0] = -500  # air still
    assert box_of(data) == ((3, 7), (4, 5), (5, 9))


def test_margin_is_at_least_so_many_mm_and_stays_inside():
    data = np.full((1, 20, 20, 20), -1000.0)
    data[0, 10, 1, 18] = 40
    assert box_of(data, (1.0, 2.0, 4.0), margin_mm=5) == ((5, 16), (0, 5), (16, 20))


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("kind", ["ct", "mr"])
def test_box_is_the_smallest_around_all_tissue(seed, kind):
    rng = np.random.default_rng(seed)
    is_tissue = rng.random((7, 8, 9)) < 0.01
    is_tissue[4, 4, 4] = True
    tissue = rng.choice([-400.0, 50.0] if kind == "ct" else [-3.0, 0.001], is_tissue.shape)
    data = np.where(is_tissue, tissue, -1000.0 if kind == "ct" else 0.0)
    found = np.argwhere(is_tissue)
    expected = tuple(zip(found.min(axis=0).tolist(), (found.max(axis=0) + 1).tolist(), strict=True))
    assert box_of(data[None], kinds=(kind,)) == expected


@pytest.mark.parametrize(("kind", "value"), [("ct", -1000), ("ct", -3024), ("mr", 0)])
def test_nothing_found_keeps_all(kind, value):
    whole = ((0, 4), (0, 5), (0, 6))
    assert box_of(np.full((1, 4, 5, 6), value), kinds=(kind,), margin_mm=2) == whole


def test_ct_stored_without_air_keeps_all():
    assert box_of(np.random.default_rng(0).integers(0, 4095, (1, 4, 5, 6))) == (
        (0, 4),
        (0, 5),
        (0, 6),
    )


def test_channels_count_together_each_by_its_own_rule():
    data = np.zeros((2, 8, 8, 8))
    data[0] = -1000
    data[0, 2, 2, 2] = 0  # tissue in CT
    data[1, 5, 6, 7] = -600  # not zero in MR
    assert box_of(data, kinds=("ct", "mr")) == ((2, 6), (2, 7), (2, 8))


# --- Intensities ---


def normalised(values, **settings):
    data = torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1)
    return normalise(data, ChannelNormalisation(**settings)).flatten().tolist()


def test_ct_by_hand():
    values = normalised(
        [-2000, -100, 0, 50, 300, 9000], kind="ct", low=-100, high=300, mean=50, std=25
    )
    assert values == [-6, -6, -2, 0, 10, 10]


def test_ct_of_constant_foreground_is_zero():
    assert normalised([-5, 7, 9], kind="ct", low=7, high=7, mean=7, std=1e-6) == [0, 0, 0]


def test_mr_by_hand():
    # Over 2, 4, 6: mean 4, variance 8/3. Zeros are background and stay.
    z = 2 / (8 / 3) ** 0.5
    assert normalised([0, 2, 4, 6, 0], kind="mr") == pytest.approx([0, -z, 0, z, 0])


def test_mr_of_constant_or_empty_channel_is_zero():
    assert normalised([0, 5, 5], kind="mr") == [0, 0, 0]
    assert normalised([0, 0, 0], kind="mr") == [0, 0, 0]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # Over 0, 2, 4, 6, 8: mean 4, variance 8.
        ("zscore", [-(2**0.5), -(2**-0.5), 0, 2**-0.5, 2**0.5]),
        ("rescale_0_1", [0, 0.25, 0.5, 0.75, 1]),
        ("rgb_0_1", [0, 2 / 255, 4 / 255, 6 / 255, 8 / 255]),
        ("none", [0, 2, 4, 6, 8]),
    ],
)
def test_other_schemes_by_hand(kind, expected):
    assert normalised([0, 2, 4, 6, 8], kind=kind) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("kind", ["zscore", "rescale_0_1", "none"])
def test_a_mask_keeps_its_two_values(kind):
    mask = np.zeros((1, *SHAPE), np.float32)
    mask[0, 2:4, 2:4, 2:4] = 1
    channels = (ChannelNormalisation(kind=kind),)
    settings = Preprocessing(spacing_mm=(1, 1, 1), crop_margin_mm=10, channels=channels)
    found = preprocess(Volume(mask, np.eye(4)), settings).data_CIJK.numpy()
    assert len(np.unique(found)) == 2
    np.testing.assert_array_equal(found > found.min(), mask > 0)


def test_none_leaves_values_to_float32():
    data = np.random.default_rng(0).normal(0, 1e4, (1, *SHAPE)).astype(np.float32)
    channels = (ChannelNormalisation(kind="none"),)
    settings = Preprocessing(spacing_mm=(1, 1, 1), crop_margin_mm=0, channels=channels)
    found = preprocess(Volume(data, np.eye(4)), settings).data_CIJK
    np.testing.assert_array_equal(found.numpy(), data)
    assert not np.shares_memory(found.numpy(), data)


def test_air_is_told_by_units_and_not_by_the_scheme():
    data = np.full((1, 8, 8, 8), -1000.0, np.float32)
    data[0, 2, 2, 2] = 0
    for hounsfield, size in ((True, 1), (False, 8)):
        channel = ChannelNormalisation(kind="none", hounsfield=hounsfield)
        settings = Preprocessing(spacing_mm=(1, 1, 1), crop_margin_mm=0, channels=(channel,))
        assert preprocess(Volume(data, np.eye(4)), settings).data_CIJK.shape[1] == size


def test_each_channel_has_its_own_scale():
    data = np.stack([np.full(SHAPE, 40.0), np.random.default_rng(0).normal(500, 9, SHAPE)]).astype(
        np.float32
    )
    channels = (
        ChannelNormalisation(kind="ct", low=0, high=100, mean=20, std=10),
        ChannelNormalisation(kind="mr"),
    )
    settings = Preprocessing(spacing_mm=(1, 1, 1), crop_margin_mm=0, channels=channels)
    ct, mr = preprocess(Volume(data, np.eye(4)), settings).data_CIJK
    assert ct.unique().tolist() == [2]
    assert mr.mean().item() == pytest.approx(0, abs=1e-5)
    assert mr.std(unbiased=False).item() == pytest.approx(1, abs=1e-5)


# --- Labels ---


def test_labels_and_image_stay_aligned(affine, unscaled):
    """A label map taken as an image, thresholded, is the label map brought the same way."""
    labels = np.zeros((20, 18, 16), np.uint8)
    labels[5:15, 4:14, 3:12] = 7
    placed = preprocess(Volume((labels[None] / 7).astype(np.float32), affine), unscaled((2, 2, 2)))
    classes = preprocess_labels(LabelMap(labels, affine), placed.placement, [0, 7])
    assert classes.dtype == torch.int16
    image = placed.data_CIJK[0]
    clear = (image - 0.5).abs() > 1e-4
    assert torch.equal(classes[clear] == 1, image[clear] > 0.5)


def test_label_values_become_class_indices(unscaled):
    labels = np.array([0, 3, 9, 300, 4, 65535], np.uint16).reshape(6, 1, 1)
    volume = Volume(np.ones((1, 6, 1, 1), np.float32), np.eye(4))
    placement = preprocess(volume, unscaled((1, 1, 1))).placement
    classes = preprocess_labels(LabelMap(labels, np.eye(4)), placement, [0, 3, 9, 300])
    assert classes.flatten().tolist() == [0, 1, 2, 3, 0, 0]


def test_more_than_256_classes_fit(unscaled):
    labels = np.arange(300, dtype=np.uint16).reshape(300, 1, 1)
    volume = Volume(np.ones((1, 300, 1, 1), np.float32), np.eye(4))
    placement = preprocess(volume, unscaled((1, 1, 1))).placement
    classes = preprocess_labels(LabelMap(labels, np.eye(4)), placement, list(range(300)))
    assert classes.flatten().tolist() == list(range(300))


def test_largest_label_type_costs_no_memory(unscaled):
    labels = np.array([0, 1, 2**32 - 1], np.uint32).reshape(3, 1, 1)
    volume = Volume(np.ones((1, 3, 1, 1), np.float32), np.eye(4))
    placement = preprocess(volume, unscaled((1, 1, 1))).placement
    classes = preprocess_labels(LabelMap(labels, np.eye(4)), placement, [0, 1])
    assert classes.flatten().tolist() == [0, 1, 0]


def test_ignored_voxels_are_those_nearest_to_ignored_ones(affine, unscaled):
    """As nearest-neighbour interpolation of the label map has it, in all directions."""
    labels = np.random.default_rng(0).choice([0, 4, 255], (9, 8, 10)).astype(np.uint8)
    placement = preprocess(
        Volume(np.ones((1, 9, 8, 10), np.float32), affine), unscaled((1.3, 1.1, 0.9))
    ).placement
    classes = preprocess_labels(LabelMap(labels, affine), placement, [0, 4], 255)
    working = placement.working
    voxels = np.stack(np.meshgrid(*map(np.arange, working.shape), indexing="ij"), axis=-1)
    to_native = np.linalg.inv(affine) @ working.affine
    places = voxels @ to_native[:3, :3].T + to_native[:3, 3]
    nearest = np.clip(np.rint(places), 0, np.array(labels.shape) - 1).astype(int)
    halfway = (np.abs(places - np.floor(places) - 0.5) < 1e-6).any(axis=-1)
    expected = labels[tuple(np.moveaxis(nearest, -1, 0))] == 255
    found = (classes == IGNORE_INDEX).numpy()
    assert expected.any()
    np.testing.assert_array_equal(found[~halfway], expected[~halfway])


def test_ignored_voxels_do_not_speak_for_background(unscaled):
    """Between label 4 and an ignored voxel, all that is nearer to the former is 4."""
    labels = np.array([0, 4, 255, 255], np.uint8).reshape(4, 1, 1)
    volume = Volume(np.ones((1, 4, 1, 1), np.float32), np.diag([4.0, 1, 1, 1]))
    placement = preprocess(volume, unscaled((1, 1, 1))).placement
    classes = preprocess_labels(LabelMap(labels, volume.affine), placement, [0, 4], 255)
    assert classes.flatten().tolist() == [0] * 4 + [1] * 4 + [IGNORE_INDEX] * 8


def test_an_ignored_value_below_the_largest_label(unscaled):
    labels = np.array([0, 3, 9, 5], np.uint8).reshape(4, 1, 1)
    volume = Volume(np.ones((1, 4, 1, 1), np.float32), np.eye(4))
    placement = preprocess(volume, unscaled((1, 1, 1))).placement
    classes = preprocess_labels(LabelMap(labels, np.eye(4)), placement, [0, 9], 3)
    assert classes.flatten().tolist() == [0, IGNORE_INDEX, 1, 0]
