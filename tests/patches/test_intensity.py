import monai.transforms as mt
import numpy as np
import pytest
import torch
from scipy import ndimage

from pipeline.patches import augmentation

SIZE = (14, 11, 9)


@pytest.fixture
def image():
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.normal(size=(2, *SIZE)), (0, 1, 1, 1))
    return torch.from_numpy((smooth * 3 + 0.5).astype(np.float32))


def changed(change, image, *how):
    copy = image.clone()
    change(copy, *how)
    return copy


@pytest.mark.parametrize("factor", [0.75, 1.0, 1.25])
def test_contrast_is_monais(image, factor):
    expected = mt.ScaleIntensityFixedMean(factor - 1)(image).as_tensor()
    torch.testing.assert_close(changed(augmentation.scale_contrast, image, factor), expected)


@pytest.mark.parametrize("gamma", [0.7, 1.5])
def test_gamma_is_monais(image, gamma):
    expected = mt.AdjustContrast(gamma, retain_stats=True)(image).as_tensor()
    found = changed(augmentation.apply_gamma, image, gamma)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("zoom", [0.5, 0.7, 1.0])
def test_low_resolution_is_monais(image, zoom):
    transform = mt.RandSimulateLowResolution(
        prob=1, zoom_range=(zoom, zoom), downsample_mode="nearest-exact"
    )
    found = changed(augmentation.lower_resolution, image, (zoom,) * 3)
    torch.testing.assert_close(found, transform(image).as_subclass(torch.Tensor))


def test_low_resolution_does_not_move_the_image():
    ramp = torch.arange(48.0).expand(1, 6, 6, 48).contiguous()
    found = changed(augmentation.lower_resolution, ramp, (1.0, 1.0, 0.7))
    assert not torch.equal(found, ramp)
    # `nearest` moves it by 0.7 of a voxel.
    assert abs((found - ramp)[..., 4:-4].mean()) < 0.1
    assert torch.equal(changed(augmentation.lower_resolution, ramp, (0.5, 0.5, 1.0)), ramp)


@pytest.mark.parametrize("sigma", [(0.3, 0.5, 0.8), (0.8, 0.8, 0.8), (2.0, 0.3, 0.3)])
def test_blur_is_monais_inside_and_scipys_at_the_border(image, sigma):
    found = changed(augmentation.blur, image, sigma)
    expected = image.numpy()
    for axis, along in enumerate(sigma):
        weights = augmentation.gaussian_weights(along)
        expected = ndimage.convolve1d(expected, weights, axis + 1, mode="nearest")
    np.testing.assert_allclose(found, expected, atol=1e-5)
    # MONAI takes what lies outside for 0.
    tail = [len(augmentation.gaussian_weights(along)) // 2 for along in sigma]
    if all(n > 2 * t for n, t in zip(SIZE, tail, strict=True)):
        i, j, k = (slice(t, n - t) for n, t in zip(SIZE, tail, strict=True))
        inside = mt.GaussianSmooth(sigma)(image).as_tensor()[:, i, j, k]
        torch.testing.assert_close(found[:, i, j, k], inside, atol=2e-3, rtol=0)


@pytest.mark.parametrize("sigma", [0.5, 0.8, 2.0])
def test_gaussian_weights(sigma):
    weights = np.array(augmentation.gaussian_weights(sigma))
    assert weights.sum() == pytest.approx(1)
    np.testing.assert_allclose(weights, weights[::-1])
    tail = len(weights) // 2
    # The variance of a Gaussian that is summed up over voxels: that of the voxel comes on top.
    variance = (weights * np.arange(-tail, tail + 1) ** 2).sum()
    assert variance == pytest.approx(sigma**2 + 1 / 12, abs=0.01)


def test_noise_is_gaussian_and_follows_from_its_seed():
    zeros = torch.zeros(1, 40, 40, 40)
    noise = changed(augmentation.add_noise, zeros, 0.07, 5)
    assert noise.std().item() == pytest.approx(0.07, rel=0.02)
    assert noise.mean().item() == pytest.approx(0, abs=0.001)
    assert torch.equal(noise, changed(augmentation.add_noise, zeros, 0.07, 5))
    assert not torch.equal(noise, changed(augmentation.add_noise, zeros, 0.07, 6))
    torch.testing.assert_close(changed(augmentation.add_noise, zeros + 3, 0.07, 5), noise + 3)


@pytest.mark.parametrize("value", [0.0, -3.0])
@pytest.mark.parametrize(
    ("change", "how"),
    [
        (augmentation.blur, (0.3, 0.5, 0.8)),
        (augmentation.scale_contrast, 1.2),
        (augmentation.lower_resolution, (0.5, 0.5, 0.5)),
        (augmentation.apply_gamma, 0.7),
    ],
)
def test_constant_patches_stay_as_they_are(value, change, how):
    constant = torch.full((1, *SIZE), value)
    torch.testing.assert_close(changed(change, constant, how), constant)
