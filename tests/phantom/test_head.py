"""The MR anatomy: two channels, labels, contrast."""

import numpy as np
import pytest

from pipeline.phantom.head import LABELS, TISSUES, make_head
from pipeline.phantom.scanner import MR, scan


@pytest.fixture(scope="session")
def scans():
    return [
        scan(make_head(np.random.default_rng([3, n])), MR, np.random.default_rng(n))
        for n in range(8)
    ]


def test_every_label_is_in_every_study(scans):
    for study in scans:
        assert set(np.unique(study.labels_IJK)) == {0, *LABELS.values()}


def test_two_channels_with_opposite_contrast(scans):
    for study in scans:
        assert study.data_CIJK.shape == (2, *study.grid.shape)
        assert study.data_CIJK.min() >= 0
        t1, t2 = (
            [channel[study.labels_IJK == LABELS[name]].mean() for name in LABELS]
            for channel in study.data_CIJK
        )
        assert t1[1] > t1[0] > t1[2]
        assert t2[1] < t2[0] < t2[2]


def test_overall_gain_differs_between_studies(scans):
    white = [s.data_CIJK[0][s.labels_IJK == LABELS["white_matter"]].mean() for s in scans]
    assert max(white) / min(white) > 1.3


def test_ventricles_look_like_the_fluid_around_the_brain():
    assert TISSUES["ventricles"].intensities == TISSUES["fluid"].intensities


def test_tumours_come_on_both_sides():
    sides = {
        np.sign(shape.centre_mm[0])
        for seed in range(20)
        for name, shape in make_head(np.random.default_rng(seed)).structures
        if name == "oedema"
    }
    assert sides == {-1.0, 1.0}
