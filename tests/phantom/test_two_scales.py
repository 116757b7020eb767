"""An organ and small lesions in it, and dark spots that are no lesions."""

from dataclasses import replace

import cc3d
import numpy as np
import pytest

from pipeline.phantom.scanner import render, scan
from pipeline.phantom.shapes import Tissue
from pipeline.phantom.two_scales import (
    LABELS,
    LESION_COUNT,
    LESION_RADIUS_MM,
    SCANNER,
    make_two_scales,
)
from pipeline.volume import Grid

ORGAN, LESION = LABELS["organ"], LABELS["lesion"]
SPOT, NEIGHBOUR = 100, 101
COARSE = replace(SCANNER, in_plane_mm=(2.0, 2.1), slice_mm=(2.0, 2.1))
NUM_STUDIES = 5


@pytest.fixture(scope="module")
def scans():
    studies = []
    for index in range(NUM_STUDIES):
        of_anatomy, of_scanner = np.random.default_rng([3, index]).spawn(2)
        studies.append(scan(make_two_scales(of_anatomy), COARSE, of_scanner))
    return studies


def test_both_labels_are_in_every_study(scans):
    for study in scans:
        assert set(np.unique(study.labels_IJK)) == {0, ORGAN, LESION}


def test_the_organ_is_large_and_whole(scans):
    for study in scans:
        both = study.labels_IJK > 0
        extent = (np.ptp(np.argwhere(both), axis=0) + 1) * study.grid.spacing_mm
        assert 75 < extent.min() < extent.max() < 140
        sizes = cc3d.statistics(cc3d.connected_components(both))["voxel_counts"][1:]
        assert max(sizes) > 0.99 * both.sum()


def test_lesions_are_small_and_lie_in_the_organ(scans):
    for study in scans:
        assert (study.labels_IJK == LESION).sum() < 0.05 * (study.labels_IJK == ORGAN).sum()
    rng = np.random.default_rng(3)
    found = [[s for n, s in make_two_scales(rng).structures if n == "lesion"] for _ in range(60)]
    counts = {len(lesions) for lesions in found}
    assert LESION_COUNT[0] == min(counts) < max(counts) == LESION_COUNT[1]
    radii = [np.cbrt(np.prod(shape.half_axes_mm)) for lesions in found for shape in lesions]
    low, high = LESION_RADIUS_MM
    assert 0.9 * low <= min(radii) < max(radii) <= 1.1 * high


def test_spots_outside_are_as_dark_and_neighbours_as_bright():
    for index in range(3):
        anatomy = make_two_scales(np.random.default_rng([3, index]))
        tissues = dict(anatomy.tissues)
        organ, lesion = (tissues[name].intensities for name in ("organ", "lesion"))
        assert tissues["spot"].intensities == lesion
        assert tissues["neighbour"].intensities == organ
        assert lesion < organ
        tissues |= {"spot": Tissue(lesion, SPOT), "neighbour": Tissue(organ, NEIGHBOUR)}
        affine = np.diag([2.0, 2.0, 2.0, 1.0])
        affine[:3, 3] = (-92, -78, -72)
        anatomy = replace(anatomy, tissues=tissues, world_to_body=np.eye(4))
        _, labels = render(anatomy, Grid((92, 78, 72), affine))
        assert (labels == SPOT).sum() > 50
        assert (labels == NEIGHBOUR).sum() > 0.05 * (labels == ORGAN).sum()
