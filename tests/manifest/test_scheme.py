import numpy as np
import pytest

from pipeline.manifest import fault_of
from pipeline.manifest.scheme import DEFAULT_SCHEMES, SCHEMES

NOISE = np.random.default_rng(0).normal(100, 10, (10, 10, 10)).astype(np.float32)
MASK = np.zeros_like(NOISE)
MASK[2:5, 2:5, 2:5] = 1


@pytest.mark.parametrize("scheme", SCHEMES)
def test_noise_can_be_normalised_by_every_scheme(scheme):
    assert fault_of(NOISE, scheme) is None


@pytest.mark.parametrize("value", [1, 2, 255, 0.5])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_mask_is_refused_where_it_would_become_constant(scheme, value):
    fault = fault_of(MASK * value, scheme)
    assert (fault is not None) == (scheme in ("zscore_nonzero", "zscore_robust"))
    if fault is not None:
        assert f"not 0 have the value {value:g}" in fault


def test_hardly_any_other_value_between_the_percentiles():
    few = MASK.copy()
    few[2, 2, 2] = 2
    assert fault_of(few, "zscore_nonzero") is None
    many = np.ones_like(NOISE)
    many[0, 0, :4] = 2
    for scheme in ("zscore_robust", "percentile"):
        assert "have the value 1" in fault_of(many, scheme)


def test_a_sample_of_large_volumes_does_not_decide_alone():
    large = np.ones((110, 100, 100), np.float32)
    large.reshape(-1)[1::11] = 2
    assert fault_of(large, "percentile") is None


@pytest.mark.parametrize("offset", [-1, 1])
def test_colours_have_8_bits(offset):
    colours = np.arange(256, dtype=np.float32).reshape(4, 8, 8)
    assert fault_of(colours, "rgb_0_1") is None
    assert "no colours" in fault_of(colours + offset, "rgb_0_1")


def test_masks_as_channels_of_no_modality_keep_their_values():
    assert DEFAULT_SCHEMES == {"CT": "ct", "MR": "zscore_robust", "other": "zscore"}
