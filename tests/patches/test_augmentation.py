import itertools

import numpy as np
import pytest
import torch
from monai.transforms import Affine, Flip
from scipy import ndimage
from scipy.spatial.transform import Rotation

from pipeline.patches import Augmentation
from pipeline.patches.augmentation import Changes, rotation, thick_axis
from pipeline.patches.movement import Movement
from pipeline.transforms import AugmentationConfig

SIZE = (16, 20, 12)
REGION = (20, 26, 16)
NOTHING = {
    f"{name}_probability": 0.0
    for name in (
        "affine",
        "noise",
        "blur",
        "contrast",
        "brightness",
        "gamma",
        "elastic",
        "low_resolution",
    )
}


def augment(config, image, label, seed=0, size=SIZE):
    """Augment one patch, with whatever surroundings it comes with."""
    augmentation = Augmentation(AugmentationConfig(**(NOTHING | config)), size)
    changes = augmentation.draw(np.random.default_rng(seed))
    image, label = (torch.as_tensor(part) for part in (image[None], label))
    found_image, found_label = augmentation.apply(image, label, [changes])
    return found_image[0], found_label


@pytest.fixture
def organs():
    """Regions of classes 0, 3 and 7, and the same as an image of a class each."""
    rng = np.random.default_rng(0)
    fields = [ndimage.gaussian_filter(rng.normal(size=REGION), 3) for _ in range(3)]
    label = np.array([0, 3, 7], np.uint8)[np.argmax(fields, axis=0)][None]
    return np.concatenate([label == value for value in (0, 3, 7)]).astype(np.float32), label


@pytest.mark.parametrize("size", [SIZE, (15, 21, 12), (20, 26, 16), (4, 2, 2)])
def test_nothing_configured_gives_the_centre(size, organs):
    image, label = organs
    size = tuple(n - (r - n) % 2 for n, r in zip(size, REGION, strict=True))
    first = [(r - n) // 2 for n, r in zip(size, REGION, strict=True)]
    i, j, k = (slice(f, f + n) for f, n in zip(first, size, strict=True))
    found_image, found_label = augment({}, image, label, size=size)
    assert torch.equal(found_image, torch.from_numpy(image[:, i, j, k]))
    assert torch.equal(found_label.byte(), torch.from_numpy(label[:, i, j, k]))


@pytest.mark.parametrize("seed", range(6))
def test_image_and_label_move_together(seed, organs):
    image, label = organs
    config = {"affine_probability": 1, "elastic_probability": 1, "flip_axes": ("R", "A", "S")}
    config |= {"elastic_spacing_mm": 10}
    found_image, found_label = augment(config, image, label, seed)
    assert found_image.shape == (3, *SIZE)
    assert found_label.shape == (1, *SIZE)
    # Where one class is all that was interpolated, the label must be that class.
    classes = torch.tensor([0, 3, 7])[found_image.argmax(dim=0)]
    certain = found_image.max(dim=0).values > 0.999
    assert certain.float().mean() > 0.4
    assert torch.equal(found_label[0][certain].long(), classes[certain])
    # At borders nearest and linear interpolation may differ, but seldom.
    assert (found_label[0].long() == classes).float().mean() > 0.95
    assert not torch.equal(found_label.byte(), torch.from_numpy(label[:, 2:-2, 3:-3, 2:-2]))


def test_labels_are_never_invented(organs):
    _, label = organs
    config = dict.fromkeys(NOTHING, 1.0) | {"flip_axes": ("R",), "rotation_degrees": 45}
    for seed in range(10):
        _, found = augment(config, label.astype(np.float32), label, seed)
        assert set(found.unique().tolist()) <= {0, 3, 7}


@pytest.mark.parametrize("axes", [(), ("R",), ("A",), ("S",), ("R", "S")])
def test_flips_along_allowed_axes_only(axes, organs):
    image, label = organs
    image, label = image[:, 2:-2, 3:-3, 2:-2], label[:, 2:-2, 3:-3, 2:-2]
    seen = set()
    for seed in range(24):
        found_image, found_label = augment({"flip_axes": axes}, image, label, seed)
        for flips in range(8):
            dims = [d + 1 for d in range(3) if flips >> d & 1]
            if np.array_equal(found_label.numpy(), np.flip(label, dims)):
                np.testing.assert_array_equal(found_image.numpy(), np.flip(image, dims))
                seen.add(flips)
    allowed = {"R": 1, "A": 2, "S": 4}
    expected = {0}
    for axis in axes:
        expected |= {flips | allowed[axis] for flips in expected}
    assert seen == expected


@pytest.mark.parametrize(
    "name", [name for name in NOTHING if name.split("_")[0] not in ("affine", "elastic")]
)
def test_intensity_changes_leave_the_label_and_the_shape_alone(name):
    rng = np.random.default_rng(0)
    image = ndimage.gaussian_filter(rng.normal(size=(2, *SIZE)), (0, 2, 2, 2))
    image = (image / image.std()).astype(np.float32)
    label = rng.integers(0, 3, (1, *SIZE)).astype(np.uint8)
    found_image, found_label = augment({name: 1.0}, image, label)
    assert torch.equal(found_label.byte(), torch.from_numpy(label))
    assert found_image.shape == image.shape
    assert not np.allclose(found_image.numpy(), image, atol=1e-4)
    assert np.corrcoef(found_image.numpy().ravel(), image.ravel())[0, 1] > 0.8
    same_image, _ = augment({name: 0.0}, image, label)
    np.testing.assert_array_equal(same_image.numpy(), image)


@pytest.mark.parametrize("name", NOTHING)
@pytest.mark.parametrize("value", [0.0, -3.0])
def test_constant_patches_stay_finite(name, value):
    image = np.full((1, *SIZE), value, np.float32)
    found, _ = augment({name: 1.0}, image, np.zeros((1, *SIZE), np.uint8))
    assert torch.isfinite(found).all()


def test_deterministic_for_a_seed(organs):
    image, label = organs
    config = dict.fromkeys(NOTHING, 0.5) | {"flip_axes": ("R", "A")}
    first, again, other = (augment(config, image, label, seed) for seed in (3, 3, 4))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_input_is_not_changed(organs):
    image, label = organs
    before = image.copy(), label.copy()
    augment(dict.fromkeys(NOTHING, 1.0), image, label)
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(label, before[1])


def test_rotation_is_as_strong_as_asked():
    """A rod along R through the centre ends where the largest angle lets it, and not beyond."""
    image = np.zeros((1, 33, 33, 33), np.float32)
    image[0, :, 16, 16] = 1
    config = {"affine_probability": 1, "rotation_degrees": 10, "scale_range": 0}
    offsets = []
    for seed in range(20):
        found, _ = augment(config, image, image.astype(np.uint8), seed, size=(33, 33, 33))
        end = ndimage.center_of_mass(found[0, 28].numpy())
        offsets.append(np.abs(np.subtract(end, 16)))
    # 12 voxels from the centre, 10 degrees move it by up to 12 tan(10) = 2.1 along either axis.
    assert 1.0 < np.max(offsets) < 2.6


def test_scaling_is_as_strong_as_asked():
    ball = np.linalg.norm(np.indices((33, 33, 33)) - 16, axis=0) <= 8
    config = {"affine_probability": 1, "rotation_degrees": 0, "scale_range": 0.2}
    image = ball[None].astype(np.float32)
    ratios = [
        augment(config, image, ball[None].astype(np.uint8), seed, size=(33, 33, 33))[0].sum().item()
        / ball.sum()
        for seed in range(20)
    ]
    assert 0.8**3 * 0.95 < min(ratios) < 1 < max(ratios) < 1 / 0.8**3 * 1.05


@pytest.mark.parametrize(
    ("spacing_mm", "axis"),
    [((1, 1, 1), None), ((1, 1, 3), None), ((1, 0.5, 3.1), 2), ((5, 1, 1), 0), ((1, 4, 4), None)],
)
def test_thick_slices(spacing_mm, axis):
    assert thick_axis(spacing_mm) == axis


@pytest.mark.parametrize("change", ["affine", "elastic"])
def test_across_thick_slices_nothing_moves(change):
    config = {f"{change}_probability": 1, "rotation_degrees": 30, "scale_range": 0.3}
    augmentation = Augmentation(AugmentationConfig(**(NOTHING | config)), (8, 9, 7), (1, 1, 4))
    assert augmentation.margin[2] == 0
    assert min(augmentation.margin[:2]) > 0
    changes = [augmentation.draw(np.random.default_rng(3))]
    i, j, k = augmentation.region_size
    in_slice, across = (torch.arange(float(n)) for n in (i, k))
    for ramp, moves in ((across, False), (in_slice[:, None, None], True)):
        image = ramp.expand(1, 1, i, j, k)
        moved, _ = augmentation.apply(image, torch.zeros(1, i, j, k), changes)
        still = Augmentation(AugmentationConfig(**NOTHING), (8, 9, 7)).apply(
            image, torch.zeros(1, i, j, k), [Changes()]
        )[0]
        assert ((moved - still).abs().max() > 0.1) == moves
        if not moves:
            torch.testing.assert_close(moved, still, atol=1e-4, rtol=0)


def test_rotations_keep_distances_in_mm():
    spacing_mm = np.array([0.8, 1.0, 2.5])
    config = {"affine_probability": 1, "rotation_degrees": 40, "scale_range": 0}
    augmentation = Augmentation(AugmentationConfig(**(NOTHING | config)), SIZE, tuple(spacing_mm))
    for seed in range(5):
        matrix = augmentation.draw(np.random.default_rng(seed)).movement.matrix
        in_mm = spacing_mm[:, None] * matrix / spacing_mm
        np.testing.assert_allclose(in_mm @ in_mm.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(in_mm) == pytest.approx(1)
        assert not np.allclose(in_mm, np.eye(3), atol=0.05)


def test_rotation_is_scipys_and_monais():
    angles = (0.2, -0.3, 0.5)
    # About K first: the last factor of the product acts first.
    turns = [Rotation.from_rotvec(angle * axis) for angle, axis in zip(angles, np.eye(3))]  # noqa: B905
    expected = (turns[0] * turns[1] * turns[2]).as_matrix()
    np.testing.assert_allclose(rotation(angles), expected, atol=1e-12)


def test_image_is_monais_for_the_same_parameters():
    """Turned, scaled, then mirrored, as `RandAffined` and `RandFlipd` do."""
    size, angles, scale = (12, 13, 11), (0.1, -0.2, 0.25), (0.9, 1.1, 1.05)
    image = torch.from_numpy(
        ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(1, *REGION)), 1)
    ).float()
    affine = Affine(
        rotate_params=angles,
        scale_params=scale,
        spatial_size=size,
        padding_mode="border",
        image_only=True,
    )
    expected = Flip(0)(affine(image)).as_subclass(torch.Tensor)
    movement = Movement((0,), None, rotation(angles) @ np.diag(scale))
    augmentation = Augmentation(AugmentationConfig(**NOTHING), size)
    found, _ = augmentation.apply(
        image[None], torch.zeros(1, *REGION), [Changes(movement=movement)]
    )
    torch.testing.assert_close(found[0], expected, atol=1e-4, rtol=0)


def test_chances_and_ranges_are_those_of_the_configuration():
    config = AugmentationConfig(flip_axes=("A",), elastic_probability=0.3, blur_probability=0.4)
    augmentation = Augmentation(config, SIZE)
    drawn = [augmentation.draw(np.random.default_rng(n)) for n in range(2000)]

    def share(happens):
        return np.mean([happens(changes) for changes in drawn])

    expected = {
        0.5: [lambda c: c.movement.flips == (1,), lambda c: c.movement.matrix is not None],
        0.3: [lambda c: c.movement.bending is not None],
        0.4: [lambda c: c.blur_sigma is not None],
        0.15: [
            lambda c: c.noise_std > 0,
            lambda c: c.contrast != 1,
            lambda c: c.brightness != 1,
            lambda c: c.gamma != 1,
        ],
        0.0: [lambda c: c.zoom is not None],
    }
    for probability, events in expected.items():
        assert [share(event) for event in events] == pytest.approx(
            [probability] * len(events), abs=0.04
        )
    ranges = {"noise_std": (0, 0.1), "contrast": (0.75, 1.25), "brightness": (0.8, 1.2)}
    for name, (low, high) in (ranges | {"gamma": (0.7, 1.5)}).items():
        neutral = getattr(Changes(), name)
        values = [getattr(c, name) for c in drawn if getattr(c, name) != neutral]
        assert low <= min(values) < low + 0.05
        assert high - 0.05 < max(values) <= high


def test_the_region_holds_what_a_patch_may_show():
    """Along each axis, the largest scaling of a patch that is turned by half the largest angle."""
    config = AugmentationConfig(rotation_degrees=30, scale_range=0.1, elastic_probability=0)
    size, spacing_mm = np.array([40, 30, 10]), np.array([1.0, 1.0, 2.5])
    augmentation = Augmentation(config, tuple(size), tuple(spacing_mm))
    corners_mm = np.array(list(itertools.product(*([-n, n] for n in size * spacing_mm / 2))))
    turns = [np.deg2rad(15) * sign * axis for sign in (-1, 1) for axis in np.eye(3)]
    reach_mm = np.max([1.1 * np.abs(corners_mm @ rotation(turn)) for turn in turns], axis=(0, 1))
    assert augmentation.margin == tuple(np.ceil((reach_mm - size * spacing_mm / 2) / spacing_mm))
    assert augmentation.region_size == tuple(size + 2 * np.array(augmentation.margin))
    assert Augmentation(AugmentationConfig(affine_probability=0), SIZE).margin == (0, 0, 0)


def test_a_batch_is_its_patches_whatever_else_is_in_it(organs):
    """Sums over a patch must not depend on what else is in the batch."""
    image, label = organs
    config = AugmentationConfig(**(dict.fromkeys(NOTHING, 0.6) | {"flip_axes": ("R", "A")}))
    augmentation = Augmentation(config, SIZE)
    images, labels = (
        torch.from_numpy(image).repeat(6, 1, 1, 1, 1),
        torch.from_numpy(label).repeat(6, 1, 1, 1),
    )
    changes = [augmentation.draw(np.random.default_rng(n)) for n in range(6)]
    whole = augmentation.apply(images, labels, changes)
    for n in range(6):
        alone = augmentation.apply(images[n : n + 1], labels[n : n + 1], [changes[n]])
        assert torch.equal(alone[0][0], whole[0][n])
        assert torch.equal(alone[1][0], whole[1][n])
