import math

import pytest

from pipeline.fingerprint.fingerprint import ChannelStatistics, Fingerprint, LabelStatistics
from pipeline.losses import class_shares
from pipeline.losses.comparison import weights_from_shares


def fingerprint(*labels):
    """Four cases of 10 x 10 x 10 voxels of 2 x 1 x 1 mm: 2 ml each."""
    return Fingerprint(
        num_cases=4,
        spacing_mm=(2, 1, 1),
        spacing_range_mm=((2, 1, 1), (2, 1, 1)),
        shape=(10, 10, 10),
        channels=(ChannelStatistics(percentile_00_5=0, percentile_99_5=1, mean=0, std=1),),
        labels=tuple(
            LabelStatistics(value=value, num_cases=cases, volume_ml=(0, ml, 9))
            for value, cases, ml in labels
        ),
    )


def test_shares_by_hand():
    """Value 7 has 0.4 of 2 ml in all cases, value 3 has 0.2 ml in half of them, value 5 nothing."""
    shares = class_shares(fingerprint((3, 2, 0.2), (7, 4, 0.4)), [0, 3, 5, 7])
    assert shares == pytest.approx((0.75, 0.05, 0, 0.2))


def test_rough_volumes_stay_shares():
    assert class_shares(fingerprint((1, 4, 3.0)), [0, 1]) == (0, 1)


def test_rare_classes_weigh_more_within_bounds():
    common, rare, absent = weights_from_shares([1.0, 0.001, 0.0]).tolist()
    assert common == pytest.approx(1 / math.log(2.02), rel=1e-5)
    assert common < rare < absent
    assert absent == pytest.approx(1 / math.log(1.02), rel=1e-5)
