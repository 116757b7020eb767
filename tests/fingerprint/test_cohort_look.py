import numpy as np
import pytest

from pipeline.fingerprint import CohortLook, describe_looks, look_at
from pipeline.volume import Volume


def looks(num):
    rng = np.random.default_rng(0)
    return [
        look_at(
            Volume(
                (100 * n + rng.normal(0, 10, (2, 20, 24, 16))).astype(np.float32),
                np.diag([1.0 + n, 2, 3, 1]),
            )
        )
        for n in range(num)
    ]


def test_ranges_are_over_the_cases():
    found = describe_looks(looks(3))
    assert (found.size_mm[0].lowest, found.size_mm[0].highest) == (20, 60)
    assert found.size_mm[1].lowest == found.size_mm[1].highest == 48
    assert len(found.channels) == 2
    for channel in found.channels:
        middle = channel.percentile_50
        expected = (0, 100, 200)
        assert (middle.lowest, middle.middle, middle.highest) == pytest.approx(expected, abs=2)
    assert found.roughness.lowest == pytest.approx(1, abs=0.1)
    assert found.doubled_slices.highest == 0


def test_a_picture_needs_cases():
    assert describe_looks(looks(3)).template is None
    assert describe_looks(looks(8)).template is not None


def test_it_survives_json():
    found = describe_looks(looks(8))
    assert CohortLook.model_validate_json(found.model_dump_json()) == found
