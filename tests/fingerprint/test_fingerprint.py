import numpy as np
import pytest

from pipeline.errors import ManifestError
from pipeline.fingerprint import Fingerprint, settle_preprocessing, take_fingerprint
from pipeline.fingerprint.fingerprint import SAMPLES_PER_CASE
from pipeline.manifest import Channel
from pipeline.transforms import ChannelNormalisation, PreprocessingConfig
from pipeline.volume import LabelMap, Volume


def case(shape, affine, num_channels=1, label=1):
    data = np.random.default_rng(0).normal(50, 20, (num_channels, *shape)).astype(np.float32)
    labels = np.zeros(shape, np.uint8)
    labels[1:, 1:, 1:] = label
    return Volume(data, affine), LabelMap(labels, affine)


def test_spacing_and_shape_are_in_ras_order():
    # Voxel axes run to S, R, P with 4, 1 and 2 mm; and to R, A, S with 3, 4, 5 mm.
    permuted = np.array([[0, 1.0, 0, 9], [0, 0, -2.0, 8], [4.0, 0, 0, 7], [0, 0, 0, 1]])
    fingerprint = take_fingerprint(
        [case((10, 20, 30), permuted), case((22, 32, 13), np.diag([3.0, 4.0, 5.0, 1.0]))], seed=0
    )
    assert fingerprint.num_cases == 2
    assert fingerprint.spacing_mm == (2.0, 3.0, 4.5)
    assert fingerprint.spacing_range_mm == ((1.0, 2.0, 4.0), (3.0, 4.0, 5.0))
    assert fingerprint.shape == (21, 31, 11)


def test_intensities_are_numpys_over_the_foreground():
    cases = [case((9, 9, 9), np.eye(4), num_channels=2, label=3) for _ in range(2)]
    pooled = np.concatenate(
        [volume.data_CIJK[:, 1:, 1:, 1:].reshape(2, -1) for volume, _ in cases], 1
    )
    for found, values in zip(take_fingerprint(cases, seed=0).channels, pooled, strict=True):
        low, high = np.percentile(values, 0.5), np.percentile(values, 99.5)
        clipped = values.astype(np.float64).clip(low, high)
        assert found.percentile_00_5 == pytest.approx(low)
        assert found.percentile_99_5 == pytest.approx(high)
        assert (found.mean, found.std) == pytest.approx((clipped.mean(), clipped.std()))


def test_large_cases_are_sampled_alike_for_a_seed():
    cases = [case((40, 40, 40), np.eye(4))]
    first, again, other = (take_fingerprint(cases, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.channels != other.channels
    inside = cases[0][0].data_CIJK[0, 1:, 1:, 1:]
    assert inside.size > SAMPLES_PER_CASE
    assert first.channels[0].mean == pytest.approx(
        inside.mean(), abs=4 * 20 / SAMPLES_PER_CASE**0.5
    )


def test_a_case_without_foreground_still_counts_for_the_geometry():
    empty, full = case((4, 4, 4), np.diag([3.0, 3.0, 3.0, 1])), case((4, 4, 4), np.eye(4))
    empty[1].labels_IJK[:] = 0
    fingerprint = take_fingerprint([empty, full], seed=0)
    assert fingerprint.num_cases == 2
    assert fingerprint.spacing_mm == (2.0, 2.0, 2.0)
    assert fingerprint.channels == take_fingerprint([full], seed=0).channels


@pytest.mark.parametrize("num_cases", [0, 1])
def test_no_foreground_at_all_is_refused(num_cases):
    cases = [case((4, 4, 4), np.eye(4), label=0)] * num_cases
    with pytest.raises(ValueError, match="no foreground voxel in any training case"):
        take_fingerprint(cases, seed=0)


def test_one_case_is_held_at_a_time():
    alive = []

    def cases():
        for _ in range(3):
            volume, label_map = case((4, 4, 4), np.eye(4))
            alive.append(volume)
            yield volume, label_map

    assert take_fingerprint(cases(), seed=0).num_cases == len(alive) == 3


def test_percentiles_are_numpys_along_ras():
    spacings = [(1.0, 2.0, 4.0 + n) for n in range(5)]
    cases = [case((10 + n, 20, 30), np.diag([*s, 1.0])) for n, s in enumerate(spacings)]
    found = take_fingerprint(cases, seed=0)
    assert found.spacing_percentiles_mm.p10 == pytest.approx((1, 2, 4.4))
    assert found.spacing_percentiles_mm.p90 == pytest.approx((1, 2, 7.6))
    assert found.shape_percentiles.p50 == (12, 20, 30)
    assert found.size_percentiles_mm.p50 == pytest.approx((12, 40, 180))
    assert found.anisotropy == pytest.approx(6)


def test_label_sizes_are_in_ml_over_the_cases_that_have_the_label():
    affine = np.diag([10.0, 10.0, 10.0, 1.0])  # One voxel is one ml.
    cases = [case((4, 4, 4), affine) for _ in range(3)]
    for (_, label_map), num_voxels in zip(cases, (2, 4, 0), strict=True):
        label_map.labels_IJK[0, 0, :num_voxels] = 5
    one, five = take_fingerprint(cases, seed=0).labels
    assert (one.value, one.num_cases, one.volume_ml) == (1, 3, (27, 27, 27))
    assert (five.value, five.num_cases, five.volume_ml[1]) == (5, 2, 3)
    assert one.range_ml == (27, 27)
    assert five.range_ml == (2, 4)


def test_ignored_voxels_count_for_nothing():
    volume, label_map = case((6, 6, 6), np.eye(4))
    expected = take_fingerprint([(volume, label_map)], seed=0)
    label_map.labels_IJK[0] = 255
    volume.data_CIJK[:, 0] = 1e6
    found = take_fingerprint([(volume, label_map)], seed=0, ignore_value=255)
    # The look is of the whole image, as it is of a new study, whose labels nobody knows.
    assert found.model_copy(update={"look": None}) == expected.model_copy(update={"look": None})


def test_the_whole_image_is_looked_at():
    volume, label_map = case((20, 20, 20), np.diag([2.0, 3.0, 4.0, 1]))
    volume.data_CIJK[:, 0] = -500
    look = take_fingerprint([(volume, label_map)], seed=0).look
    assert look.size_mm[2].highest == 80
    # The labels leave the first plane out; the look does not.
    assert look.channels[0].share_air.highest == pytest.approx(1 / 20, abs=0.05)
    assert look.channels[0].percentile_00_5.lowest < 0 < look.channels[0].percentile_50.lowest


def test_a_fingerprint_of_an_earlier_version_still_loads():
    found = take_fingerprint([case((4, 4, 4), np.eye(4))], seed=0)
    added = {"spacing_percentiles_mm", "shape_percentiles", "size_percentiles_mm", "labels", "look"}
    old = Fingerprint.model_validate_json(found.model_dump_json(exclude=added))
    assert old.labels == ()
    assert old.channels == found.channels


def test_fingerprint_survives_json():
    fingerprint = take_fingerprint([case((4, 4, 4), np.diag([1 / 3, 1, 1, 1]))], seed=0)
    assert Fingerprint.model_validate_json(fingerprint.model_dump_json()) == fingerprint


@pytest.fixture
def two_channels():
    return take_fingerprint([case((6, 6, 6), np.diag([2.0, 3.0, 4.0, 1]), num_channels=2)], seed=0)


def test_median_spacing_unless_the_user_says(two_channels):
    channels = [Channel("a", "CT"), Channel("b", "MR")]
    settled = settle_preprocessing(PreprocessingConfig(), channels, two_channels)
    assert settled.spacing_mm == (2.0, 3.0, 4.0)
    config = PreprocessingConfig(spacing_mm=(1, 1, 5), crop_margin_mm=3)
    settled = settle_preprocessing(config, channels, two_channels)
    assert (settled.spacing_mm, settled.crop_margin_mm) == ((1, 1, 5), 3)


def test_only_ct_has_absolute_units(two_channels):
    channels = [Channel("a", "CT"), Channel("b", "other")]
    ct, other = settle_preprocessing(PreprocessingConfig(), channels, two_channels).channels
    found = two_channels.channels[0]
    assert ct == ChannelNormalisation(
        kind="ct",
        low=found.percentile_00_5,
        high=found.percentile_99_5,
        mean=found.mean,
        std=found.std,
    )
    assert other == ChannelNormalisation(kind="zscore")


def test_units_and_scheme_are_apart(two_channels):
    channels = [Channel("SUV", "other", "ct"), Channel("CT", "CT", "rescale_0_1")]
    suv, ct = settle_preprocessing(PreprocessingConfig(), channels, two_channels).channels
    assert (suv.kind, suv.hounsfield, ct.kind, ct.hounsfield) == ("ct", False, "rescale_0_1", True)
    assert suv.mean == two_channels.channels[0].mean


def test_a_constant_foreground_leaves_nothing():
    volume, label_map = case((4, 4, 4), np.eye(4))
    volume.data_CIJK[:] = 7
    fingerprint = take_fingerprint([(volume, label_map)], seed=0)
    assert fingerprint.channels[0].std == 0
    with pytest.raises(ManifestError, match=r"channel a: 99 % .* the value 7\. Declare"):
        settle_preprocessing(PreprocessingConfig(), [Channel("a", "CT")], fingerprint)


def test_channels_must_fit(two_channels):
    with pytest.raises(ValueError, match="zip"):
        settle_preprocessing(PreprocessingConfig(), [Channel("a", "CT")], two_channels)
