"""The CT anatomy: labels, places, and that no threshold can find them."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from pipeline.phantom.abdomen import AIR_HU, LABELS, LESION_RADIUS_MM, TISSUES, make_abdomen
from pipeline.phantom.scanner import CT, render, scan
from pipeline.phantom.shapes import Tissue
from pipeline.volume import Grid

NUM_STUDIES = 12


@pytest.fixture(scope="session")
def scans():
    return [scan_of(index) for index in range(NUM_STUDIES)]


def scan_of(index):
    rng = np.random.default_rng([7, index])
    return scan(make_abdomen(rng), CT, rng)


def centroid_mm(study, name):
    voxels = np.argwhere(study.labels_IJK == LABELS[name])
    return study.grid.affine[:3, :3] @ voxels.mean(axis=0) + study.grid.affine[:3, 3]


def test_every_organ_is_in_every_study_and_lesions_in_most(scans):
    for study in scans:
        assert set(LABELS.values()) - set(np.unique(study.labels_IJK)) <= {LABELS["lesion"]}
    with_lesion = sum(LABELS["lesion"] in study.labels_IJK for study in scans)
    assert with_lesion >= 0.75 * NUM_STUDIES


def test_lesions_are_as_many_and_as_large_as_stated():
    counts = [
        sum(name == "lesion" for name, _ in make_abdomen(np.random.default_rng(seed)).structures)
        for seed in range(300)
    ]
    assert set(counts) == {0, 1, 2, 3, 4}
    assert counts.count(0) / 300 == pytest.approx(0.06, abs=0.04)
    rng = np.random.default_rng(3)
    radii = [
        np.cbrt(np.prod(shape.half_axes_mm))
        for _ in range(40)
        for name, shape in make_abdomen(rng).structures
        if name == "lesion"
    ]
    low, high = LESION_RADIUS_MM
    assert 0.88 * low <= min(radii) < max(radii) <= 1.12 * high


def test_left_and_right_are_the_patients(scans):
    for study in scans:
        left, right = (centroid_mm(study, name)[0] for name in ("left_kidney", "right_kidney"))
        assert left < centroid_mm(study, "spine")[0] < right
        assert centroid_mm(study, "spleen")[0] < centroid_mm(study, "liver")[0]


def test_front_and_head_are_the_patients(scans):
    for study in scans:
        assert centroid_mm(study, "spine")[1] < centroid_mm(study, "aorta")[1]
        assert centroid_mm(study, "liver")[2] > centroid_mm(study, "right_kidney")[2]


@pytest.mark.parametrize("name", ["liver", "spleen", "left_kidney", "right_kidney", "aorta"])
def test_organs_have_their_hounsfield_units(scans, name):
    means = [
        study.data_CIJK[0][binary_erosion(study.labels_IJK == LABELS[name])].mean()
        for study in scans
    ]
    # The mean of 12 offsets with a standard deviation of 5 HU has one of 1.4 HU.
    assert np.mean(means) == pytest.approx(TISSUES[name].intensities[0], abs=6)
    assert np.std(means) < 3 * CT.tissue_offset


def test_air_is_air(scans):
    for study in scans:
        assert study.data_CIJK.min() >= -1024
        air = study.data_CIJK[study.data_CIJK < -900]
        assert np.median(air) == pytest.approx(AIR_HU, abs=5)
        assert (study.data_CIJK < -900).mean() > 0.15
        assert study.data_CIJK.max() < 500


def test_neighbours_of_equal_intensity_touch(scans):
    """Liver meets unlabelled tissue (stomach) of its own intensity somewhere in most studies."""
    assert TISSUES["liver"].intensities == TISSUES["stomach"].intensities
    assert TISSUES["liver"].intensities == TISSUES["spleen"].intensities
    assert TISSUES["left_kidney"].intensities == TISSUES["right_kidney"].intensities
    assert TISSUES["vena_cava"].intensities == TISSUES["aorta"].intensities
    assert TISSUES["vertebra"].intensities == TISSUES["rib"].intensities
    touching = 0
    for index in range(NUM_STUDIES):
        anatomy = make_abdomen(np.random.default_rng([7, index]))
        tissues = {**anatomy.tissues, "stomach": Tissue((105.0,), 100)}
        anatomy = replace(anatomy, tissues=tissues, world_to_body=np.eye(4))
        affine = np.diag([3.0, 3.0, 3.0, 1.0])
        affine[:3, 3] = (-90, -60, -60)
        _, labels = render(anatomy, Grid((60, 40, 50), affine))
        beside = (labels[1:] == LABELS["liver"]) & (labels[:-1] == 100)
        touching += bool(beside.any())
    assert touching >= NUM_STUDIES / 2


def test_no_threshold_finds_the_labels(scans):
    """Give each intensity its most frequent label; give each label its best intensity interval."""
    bins = np.concatenate([study.data_CIJK[0].ravel() for study in scans]).astype(int) + 1024
    truth = np.concatenate([study.labels_IJK.ravel() for study in scans])
    counts = np.zeros((bins.max() + 1, max(LABELS.values()) + 1))
    np.add.at(counts, (bins, truth), 1)
    guess = counts.argmax(axis=1)
    majority, interval = [], []
    for label in LABELS.values():
        size = counts[:, label].sum()
        picked = counts[guess == label]
        majority.append(2 * picked[:, label].sum() / (picked.sum() + size))
        hits = np.append(0, counts[:, label].cumsum())
        voxels = np.append(0, counts.sum(axis=1).cumsum())
        taken = np.triu(voxels[None] - voxels[:, None])
        interval.append((2 * np.triu(hits[None] - hits[:, None]) / (taken + size)).max())
    assert np.mean(majority) < 0.3
    assert np.mean(interval) < 0.45
