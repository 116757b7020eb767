import numpy as np
import pytest
import torch
from scipy import ndimage

from pipeline.transforms import AugmentationConfig, build_augmentation
from pipeline.transforms.augmentation import rotation_ranges

SIZE = (16, 20, 12)
REGION = (20, 26, 16)
NOTHING = {
    f"{name}_probability": 0.0
    for name in ("affine", "noise", "blur", "contrast", "brightness", "gamma")
}


def augment(config, image, label, seed=0, size=SIZE):
    augmentation = build_augmentation(AugmentationConfig(**(NOTHING | config)), size)
    augmentation.set_random_state(seed=seed)
    patch = augmentation({"image": torch.as_tensor(image), "label": torch.as_tensor(label)})
    return patch["image"].as_subclass(torch.Tensor), patch["label"].as_subclass(torch.Tensor)


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
    torch.testing.assert_close(found_image, torch.from_numpy(image[:, i, j, k]), atol=1e-4, rtol=0)
    assert torch.equal(found_label.byte(), torch.from_numpy(label[:, i, j, k]))


@pytest.mark.parametrize("seed", range(6))
def test_image_and_label_move_together(seed, organs):
    image, label = organs
    config = {"affine_probability": 1, "flip_axes": ("R", "A", "S")}
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


@pytest.mark.parametrize("name", [name for name in NOTHING if name != "affine_probability"])
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


def test_rotation_out_of_thick_slices_shrinks_with_their_thickness():
    in_plane, out_of_plane = np.deg2rad(15), np.deg2rad(15) / 8
    ranges = rotation_ranges(15, (0.8, 0.8, 6.4))
    np.testing.assert_allclose(ranges, (out_of_plane, out_of_plane, in_plane))
    np.testing.assert_allclose(rotation_ranges(15, (2.0, 2.0, 2.0)), (in_plane,) * 3)


def test_a_rotation_about_the_slice_axis_keeps_slices_apart():
    """Only the rotation that thick slices allow moves voxels: none out of its slice."""
    config = AugmentationConfig(
        **(NOTHING | {"affine_probability": 1, "rotation_degrees": 30, "scale_range": 0})
    )
    augmentation = build_augmentation(config, (8, 8, 8), (1.0, 1.0, 1e6))
    slices = torch.arange(8.0).expand(1, 8, 8, 8)
    augmentation.set_random_state(seed=3)
    augmented = augmentation({"image": slices.clone(), "label": torch.zeros(1, 8, 8, 8)})["image"]
    torch.testing.assert_close(torch.as_tensor(augmented), slices, atol=1e-3, rtol=0)
