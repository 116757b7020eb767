"""The tree of vessels: thin, branching, nearly whole, and not alone in being bright."""

from dataclasses import replace

import cc3d
import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt, uniform_filter

from pipeline.phantom.branching import (
    FEWEST_PIECES,
    LABELS,
    LEAST_RADIUS_MM,
    SCANNER,
    TISSUES,
    make_branching,
)
from pipeline.phantom.scanner import render
from pipeline.phantom.shapes import Tissue, Tube
from pipeline.volume import Grid

VESSELS = LABELS["vessels"]
BLOOD = 100
SEEDS = range(2)


@pytest.fixture(scope="module")
def rendered():
    """Subjects on a grid of 1 mm, in the body's own frame, with all other blood labelled too."""
    return [render(subject_of(seed), grid_of_1_mm()) for seed in SEEDS]


def subject_of(seed):
    anatomy = make_branching(np.random.default_rng([2, seed]))
    blood = Tissue(anatomy.tissues["blood"].intensities, BLOOD)
    return replace(anatomy, tissues={**anatomy.tissues, "blood": blood}, world_to_body=np.eye(4))


def grid_of_1_mm():
    affine = np.eye(4)
    affine[:3, 3] = (-60, -62, -56)
    return Grid((125, 125, 112), affine)


def test_vessels_are_thin_and_few(rendered):
    for _, labels in rendered:
        tree = labels == VESSELS
        depth = distance_transform_edt(tree)
        assert 2.0 <= depth.max() <= 4.5
        # Most of it lies within 2 mm of a surface: 2 to 6 mm thick.
        assert (depth[tree] <= 2).mean() > 0.75
        assert 0.0005 < tree.mean() < 0.01


def test_vessels_branch_and_hang_together(rendered):
    for seed, (_, labels) in zip(SEEDS, rendered, strict=True):
        tree = labels == VESSELS
        sizes = cc3d.statistics(cc3d.connected_components(tree))["voxel_counts"][1:]
        assert max(sizes) > 0.8 * tree.sum()
        # Spheres around its root cut one tree once nearby, and many times further away.
        first = next(s for name, s in subject_of(seed).structures if name == "vessels")
        root = np.array(first.start_mm) - grid_of_1_mm().affine[:3, 3]
        away = np.linalg.norm(np.moveaxis(np.indices(tree.shape), 0, -1) - root, axis=-1)
        crossed = [
            cc3d.connected_components(tree & (np.abs(away - radius) < 1)).max()
            for radius in (5, 30, 40, 50)
        ]
        assert crossed[0] == 1
        assert max(crossed) >= 4


def test_a_tree_that_begins_far_outside_reaches_the_organ():
    """Of this subject, the first branch would end outside, with nothing after it."""
    of_anatomy, _ = np.random.default_rng([20240, 56]).spawn(2)
    names = [name for name, _ in make_branching(of_anatomy).structures]
    assert names.count("vessels") >= FEWEST_PIECES


def test_branches_keep_murrays_law_and_end_at_the_least_radius():
    for seed in SEEDS:
        tubes = [s for name, s in subject_of(seed).structures if name == "vessels"]
        assert all(isinstance(tube, Tube) for tube in tubes)
        assert min(tube.radii_mm[0] for tube in tubes) >= LEAST_RADIUS_MM
        checked = 0
        for tube in tubes:
            next_ones = [other for other in tubes if other.start_mm == tube.end_mm]
            if len(next_ones) == 2:
                cubes = sum(other.radii_mm[0] ** 3 for other in next_ones)
                assert cubes == pytest.approx(tube.radii_mm[1] ** 3)
                checked += 1
        assert checked >= 5


def test_other_blood_is_as_bright_and_some_of_it_is_as_thin(rendered):
    assert TISSUES["blood"].intensities == TISSUES["vessels"].intensities
    for seed, (image, labels) in zip(SEEDS, rendered, strict=True):
        intensity = subject_of(seed).tissues["vessels"].intensities[0]
        assert np.abs(image[0][labels == BLOOD] - intensity).min() < 1
        inner = (labels == VESSELS) & (uniform_filter((labels == VESSELS) * 1.0, 3) > 0.99)
        assert image[0][inner].mean() == pytest.approx(intensity, abs=25)
        other = labels == BLOOD
        assert other.sum() > (labels == VESSELS).sum()
        thin = [
            tube
            for name, tube in subject_of(seed).structures
            if name == "blood" and isinstance(tube, Tube)
        ]
        assert len(thin) > 60


def test_scans_have_about_1_mm():
    assert max(*SCANNER.in_plane_mm, *SCANNER.slice_mm) <= 1.25
    size = np.array(SCANNER.field_of_view_mm) / np.mean([SCANNER.in_plane_mm, SCANNER.slice_mm])
    assert size == pytest.approx([150, 150, 110], rel=0.1)
