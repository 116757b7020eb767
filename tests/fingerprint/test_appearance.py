import numpy as np
import pytest

from pipeline.fingerprint import look_at
from pipeline.fingerprint.appearance import CUBE_SIZE, QUANTILES, is_padding
from pipeline.volume import Volume


def volume(data, affine=None):
    return Volume(np.asarray(data, np.float32)[None], np.eye(4) if affine is None else affine)


def noise(shape=(48, 48, 48), seed=0):
    return np.random.default_rng(seed).normal(0, 1, shape)


def test_numbers_are_numpys():
    data = noise()
    (found,) = look_at(volume(data)).channels
    assert (found.lowest, found.highest) == pytest.approx((data.min(), data.max()))
    np.testing.assert_allclose(found.quantiles, np.quantile(data, QUANTILES), atol=0.02)
    assert found.spread == pytest.approx(np.subtract(*np.quantile(data, [0.995, 0.005])), abs=0.04)
    assert found.middle == found.quantiles[2]


def test_shares_of_air_bone_and_the_ends():
    data = np.full((48, 48, 48), 50.0)
    data[:12] = -1000  # A quarter.
    data[12:18] = 400  # An eighth.
    data[0, 0, 0] = -1000
    (found,) = look_at(volume(data)).channels
    assert (found.share_air, found.share_bone) == (0.25, 0.125)
    assert (found.share_lowest, found.share_highest) == (0.25, 0.125)
    assert found.second_lowest == 50


def test_noise_is_rough_and_a_ramp_is_smooth():
    rough = look_at(volume(noise())).channels[0].roughness
    assert rough == pytest.approx((1, 1, 1), abs=0.05)
    # Neighbours along the ramp of 48 steps differ by 1, any two voxels by a third of 48.
    ramp = np.broadcast_to(np.arange(48.0), (48, 48, 48))
    assert look_at(volume(ramp)).channels[0].roughness == pytest.approx((0, 0, 1 / 16), rel=0.01)


def test_texture_compares_the_axes():
    data = noise()
    data[1::2] = data[::2]
    r, a, s = look_at(volume(data)).channels[0].texture
    # Half of the neighbours along R are equal: 0.5, 1, 1 have the mean 5/6.
    assert (r, a, s) == pytest.approx((np.log(0.6), np.log(1.2), np.log(1.2)), abs=0.05)


def test_everything_is_along_ras():
    # Voxel axes run to S, R and P with 4, 1 and 2 mm; brighter towards the head.
    affine = np.array([[0, 1.0, 0, 9], [0, 0, -2.0, 8], [4.0, 0, 0, 7], [0, 0, 0, 1]])
    data = np.broadcast_to(np.arange(24.0)[:, None, None], (24, 36, 48))
    look = look_at(volume(data, affine))
    assert look.spacing_mm == (1, 2, 4)
    assert look.size_mm == (36, 96, 96)
    cube = look.channels[0].cube_RAS
    np.testing.assert_array_equal(cube, np.broadcast_to(cube[0, 0], cube.shape))
    assert (np.diff(cube[0, 0]) > 0).all()


def test_shear_in_degrees():
    sheared = np.eye(4)
    sheared[1, 2] = np.tan(np.radians(12))
    assert look_at(volume(noise(), sheared)).shear_degrees == pytest.approx(12, abs=1e-4)
    turned = np.eye(4)
    turned[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    assert look_at(volume(noise(), turned)).shear_degrees == pytest.approx(0, abs=1e-6)


def test_the_picture_is_of_ranks_whatever_the_scale():
    data = noise() + np.indices((48, 48, 48))[0] / 10
    cube = look_at(volume(data)).channels[0].cube_RAS
    assert cube.shape == (CUBE_SIZE,) * 3
    assert cube.mean() == pytest.approx(0.5, abs=0.02)
    for changed in (1000 * data - 5, np.exp(data / 4)):
        found = look_at(volume(changed)).channels[0].cube_RAS
        np.testing.assert_allclose(found, cube, atol=0.02)
    np.testing.assert_allclose(look_at(volume(-data)).channels[0].cube_RAS, 1 - cube, atol=0.02)


def test_equal_voxels_share_their_rank():
    data = np.zeros((48, 48, 48))
    data[24:] = 1
    cube = look_at(volume(data)).channels[0].cube_RAS
    np.testing.assert_allclose(cube[:6], 0.25, atol=0.03)
    np.testing.assert_allclose(cube[6:], 0.75, atol=0.03)


def test_padding_hides_nothing():
    data = noise() * 100
    plain = look_at(volume(data)).channels[0]
    data[:4] = -30000
    padded = look_at(volume(data)).channels[0]
    assert padded.lowest == -30000
    assert padded.gap > 10
    assert padded.quantiles[0] == pytest.approx(plain.lowest, rel=0.2)
    assert padded.quantiles[3:] == pytest.approx(plain.quantiles[3:], rel=0.1)
    assert padded.slices[0].largest_jump < 2


@pytest.mark.parametrize(
    ("share", "gap", "rest", "expected"),
    [(0.2, 2000, 3000, True), (0.001, 2000, 3000, False), (0.2, 5, 3000, False), (1, 0, 0, False)],
)
def test_padding_is_common_and_far_below(share, gap, rest, expected):
    assert is_padding(share, gap, rest) == expected


def test_large_volumes_are_sampled_and_small_ones_repeat():
    assert look_at(volume(noise((90, 80, 200)))).channels[0].middle == pytest.approx(0, abs=0.02)
    for shape in ((1, 1, 1), (3, 30, 5)):
        (found,) = look_at(volume(noise(shape))).channels
        assert np.isfinite(found.cube_RAS).all()


def test_the_worst_channel_and_axis_count():
    data = np.stack([noise(), noise(seed=1)]).astype(np.float32)
    data[1, :, 10] = data[1, :, 9]
    look = look_at(Volume(data, np.eye(4)))
    assert look.share_of_slices("doubled") == 1 / 48
    assert look.share_of_slices("empty") == 0
    assert look.roughness == max(max(channel.roughness) for channel in look.channels)
    assert look.largest_jump == max(s.largest_jump for c in look.channels for s in c.slices)
