"""A gland in few thick slices: three labels, one of them small, and look-alikes of each."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.phantom.scanner import random_grid, scan
from pipeline.phantom.thick_slices import LABELS, SCANNER, make_thick_slices

COARSE = replace(SCANNER, in_plane_mm=(1.6, 1.7))
NUM_STUDIES = 3


@pytest.fixture(scope="module")
def scans():
    studies = []
    for index in range(NUM_STUDIES):
        of_anatomy, of_scanner = np.random.default_rng([4, index]).spawn(2)
        studies.append(scan(make_thick_slices(of_anatomy), COARSE, of_scanner))
    return studies


def test_slices_are_thick_and_few():
    for seed in range(20):
        grid = random_grid(SCANNER, (0.0, 0.0, 0.0), np.random.default_rng(seed))
        thin, thin_too, thick = sorted(grid.spacing_mm)
        assert 0.72 - 1e-4 <= thin <= thin_too <= 0.88 + 1e-4
        assert 4 - 1e-4 <= thick <= 6 + 1e-4
        assert 14 <= min(grid.shape) <= 25


def test_every_label_is_in_every_study_and_nodules_are_small(scans):
    for study in scans:
        assert set(np.unique(study.labels_IJK)) == {0, *LABELS.values()}
        nodule = study.labels_IJK == LABELS["nodule"]
        assert nodule.sum() < 0.15 * (study.labels_IJK > 0).sum()
        slices = np.argwhere(nodule)[:, np.argmax(study.grid.spacing_mm)]
        assert len(set(slices.tolist())) <= 8


def test_the_rim_is_brighter_than_the_core_and_nodules_are_darker(scans):
    for study in scans:
        core, rim, nodule = (
            np.median(study.data_CIJK[0][study.labels_IJK == LABELS[name]])
            for name in ("core", "rim", "nodule")
        )
        assert nodule < core < rim


def test_each_part_has_a_look_alike():
    for index in range(NUM_STUDIES):
        anatomy = make_thick_slices(np.random.default_rng([4, index]))
        names = [name for name, _ in anatomy.structures]
        for part, like in (("rim", "vein"), ("core", "bowel"), ("nodule", "knot")):
            assert anatomy.tissues[like].intensities == anatomy.tissues[part].intensities
            assert anatomy.tissues[like].label == 0
            assert names.count(like) >= 8
        assert anatomy.tissues["dark_core"].intensities == anatomy.tissues["nodule"].intensities
