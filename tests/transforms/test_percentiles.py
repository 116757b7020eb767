import numpy as np
import pytest
import torch
from monai.transforms import ScaleIntensityRangePercentiles

from pipeline.transforms.percentiles import scale_percentiles, zscore_robust


@pytest.fixture
def image():
    """Return a body of two tissues on a background of exact zeros."""
    rng = np.random.default_rng(0)
    data = rng.normal(100, 8, (20, 20, 20)).astype(np.float32)
    data[8:14, 8:14, 8:14] += 60
    data[:4] = 0
    return torch.from_numpy(data)


def test_robust_z_score_by_hand():
    # 201 values, 0.5 % of which are the first and the last: the bulk is 2 to 200, of mean 101 and
    # variance (199^2 - 1) / 12; 900 is clipped to 200 + 198.
    values = torch.arange(1.0, 202)
    values[-1] = 900
    found = zscore_robust(torch.cat([torch.zeros(3), values])[:, None, None]).flatten()
    deviation = ((199**2 - 1) / 12) ** 0.5
    assert found[:3].tolist() == [0, 0, 0]
    np.testing.assert_allclose(found[3:-1], (np.arange(1, 201) - 101) / deviation, rtol=1e-6)
    assert found[-1].item() == pytest.approx((200 + 198 - 101) / deviation)


def test_one_hot_voxel_moves_nothing_else(image):
    hot = image.clone()
    hot[6, 1, 1] = 1e6
    clean, found = zscore_robust(image), zscore_robust(hot)
    assert (clean - found).abs().flatten().sort().values[-2] < 0.05
    assert found.max() < 15
    tissues = found[9:13, 9:13, 9:13].mean() - found[16:, 16:, 16:].mean()
    assert tissues > 1


def test_zeros_stay_and_the_input_too(image):
    before = image.clone()
    assert torch.equal(zscore_robust(image)[:4], torch.zeros(4, 20, 20))
    scale_percentiles(image)
    assert torch.equal(image, before)


def test_percentiles_are_monais(image):
    monai = ScaleIntensityRangePercentiles(0.5, 99.5, 0, 1, clip=True)(image[None])[0]
    np.testing.assert_allclose(scale_percentiles(image), monai, atol=1e-6)


@pytest.mark.parametrize("scale", [zscore_robust, scale_percentiles])
def test_one_value_becomes_zero(scale):
    assert scale(torch.full((3, 3, 3), 7.0)).unique().tolist() == [0]
    assert scale(torch.zeros(3, 3, 3)).unique().tolist() == [0]
