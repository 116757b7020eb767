"""The large organ: half of each axis, whole, and only place and shape tell it from the rest."""

from dataclasses import replace

import cc3d
import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from pipeline.phantom.large_organ import LABELS, SCANNER, TISSUES, make_large_organ
from pipeline.phantom.scanner import random_grid, render, scan
from pipeline.phantom.shapes import Tissue
from pipeline.volume import Grid

ORGAN = LABELS["organ"]
BLOOD = 100
COARSE = replace(SCANNER, in_plane_mm=(1.8, 1.9), slice_mm=(1.8, 1.9))
NUM_STUDIES = 12


@pytest.fixture(scope="module")
def scans():
    return [scan_of(index) for index in range(NUM_STUDIES)]


def scan_of(index):
    of_anatomy, of_scanner = np.random.default_rng([1, index]).spawn(2)
    return scan(make_large_organ(of_anatomy), COARSE, of_scanner)


def with_blood_labelled(index):
    """Render a subject without noise on a grid of 1.5 mm, in the body's own frame."""
    anatomy = make_large_organ(np.random.default_rng([1, index]))
    blood = Tissue(anatomy.tissues["blood"].intensities, BLOOD)
    anatomy = replace(anatomy, tissues={**anatomy.tissues, "blood": blood}, world_to_body=np.eye(4))
    affine = np.diag([1.5, 1.5, 1.5, 1.0])
    affine[:3, 3] = (-58, -44, -27)
    return *render(anatomy, Grid((78, 59, 37), affine)), blood.intensities[0]


def test_the_organ_fills_about_half_of_each_axis(scans):
    shares = []
    for study in scans:
        voxels = np.argwhere(study.labels_IJK == ORGAN)
        shares.append((np.ptp(voxels, axis=0) + 1) / study.labels_IJK.shape)
        # Not cut off by the field of view.
        assert np.all(voxels.min(axis=0) > 0)
        assert np.all(voxels.max(axis=0) < np.array(study.labels_IJK.shape) - 1)
    assert np.mean(shares, axis=0) == pytest.approx([0.5] * 3, abs=0.08)
    assert 0.3 < np.min(shares) < np.max(shares) < 0.85


def test_the_organ_is_one_piece_and_its_size_differs(scans):
    volumes = []
    for study in scans:
        label = study.labels_IJK == ORGAN
        assert cc3d.connected_components(label).max() == 1
        volumes.append(label.sum() * study.grid.voxel_volume_mm3)
    assert 1.4 < max(volumes) / min(volumes) < 4.0


def test_a_study_has_the_stated_voxels():
    low, high = SCANNER.in_plane_mm
    for seed in range(20):
        grid = random_grid(SCANNER, (0.0, 0.0, 0.0), np.random.default_rng(seed))
        assert all(low - 1e-4 <= size <= high + 1e-4 for size in grid.spacing_mm)
        assert sorted(grid.shape) == pytest.approx([88, 145, 190], rel=0.13)


def test_blood_around_it_is_as_bright_and_as_much():
    assert TISSUES["blood"].intensities == TISSUES["organ"].intensities
    for index in range(4):
        image, labels, intensity = with_blood_labelled(index)
        assert (labels == BLOOD).sum() > (labels == ORGAN).sum()
        for label in (ORGAN, BLOOD):
            inner = image[0][binary_erosion(labels == label, iterations=2)]
            assert inner.mean() == pytest.approx(intensity, rel=0.01)


def test_no_contrast_where_veins_and_the_valve_cut_the_organ_off():
    """Voxels on both sides of a border of organ and blood are bright on both sides."""
    for index in range(4):
        image, labels, intensity = with_blood_labelled(index)
        border = (labels[1:] == ORGAN) & (labels[:-1] == BLOOD)
        assert border.sum() > 20
        assert np.median(image[0][:-1][border]) > 0.95 * intensity
