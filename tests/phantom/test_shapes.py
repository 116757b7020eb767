"""Distances, boxes and waves against hand values and properties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.phantom.shapes import (
    Part,
    Ring,
    Superellipsoid,
    Tube,
    random_pose,
    random_rotation,
    random_waves,
    vary,
)


def points(*places_mm):
    return np.array(places_mm, np.float32).T.reshape(3, -1, 1, 1)


def test_distance_to_a_sphere_is_exact():
    sphere = Superellipsoid((10.0, 0.0, 0.0), (5.0, 5.0, 5.0))
    found = sphere.distance_mm(points((10, 0, 0), (10, 0, 1), (10, 0, 5), (10, 12, 0), (14, 3, 0)))
    assert found.ravel() == pytest.approx([-5, -4, 0, 7, 0], abs=0.01)


def test_a_high_exponent_makes_a_box():
    corner = points((8.5, 8.5, 0))
    assert Superellipsoid((0.0, 0.0, 0.0), (10.0, 10.0, 10.0)).distance_mm(corner).item() > 0
    box = Superellipsoid((0.0, 0.0, 0.0), (10.0, 10.0, 10.0), exponent=8.0)
    assert box.distance_mm(corner).item() < 0


def test_rotation_takes_the_shapes_own_axes_to_the_body():
    quarter_about_z = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    shape = Superellipsoid((0.0, 0.0, 0.0), (20.0, 5.0, 5.0), quarter_about_z)
    assert shape.distance_mm(points((0, 20, 0), (5, 0, 0))).ravel() == pytest.approx(
        [0, 0], abs=0.01
    )
    assert shape.half_box_mm == pytest.approx([5, 20, 5])


def test_a_ring_is_hollow():
    ring = Ring((0.0, 0.0, 0.0), (30.0, 30.0, 4.0))
    found = ring.distance_mm(points((30, 0, 0), (0, 0, 0), (30, 0, 6), (0, -33, 0)))
    assert found.ravel() == pytest.approx([-4, 26, 2, -1], abs=0.01)


def test_a_tube_tapers_and_has_round_ends():
    tube = Tube((0.0, 0.0, 0.0), (20.0, 0.0, 0.0), (4.0, 2.0))
    found = tube.distance_mm(points((0, 0, 0), (10, 5, 0), (20, 0, 3), (23, 0, 0), (-3, 0, 0)))
    assert found.ravel() == pytest.approx([-4, 2, 1, 1, -1], abs=0.01)
    assert tube.centre_mm == (10.0, 0.0, 0.0)
    assert tube.half_box_mm == pytest.approx([14, 4, 4])


def test_a_part_is_what_both_shapes_hold():
    tube = Tube((0.0, 0.0, 0.0), (20.0, 0.0, 0.0), (4.0, 4.0))
    part = Part(tube, Superellipsoid((0.0, 0.0, 0.0), (9.0, 9.0, 9.0)))
    found = part.distance_mm(points((6, 0, 0), (12, 0, 0), (0, 6, 0)))
    assert found.ravel() == pytest.approx([-3, 3, 2], abs=0.01)
    assert part.centre_mm == tube.centre_mm


@given(seed=st.integers(0, 10_000))
def test_the_box_holds_the_rippled_shape(seed):
    shape = vary(np.random.default_rng(seed), (0.0, 0.0, 0.0), (20.0, 30.0, 40.0))
    axis = np.arange(-72, 73, 6, dtype=np.float32)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"))
    inside = grid[:, shape.distance_mm(grid) < 0].T - shape.centre_mm
    assert np.all(np.abs(inside).max(axis=0) <= shape.half_box_mm + 0.01)


def test_waves_have_the_stated_size_and_are_smooth():
    size, wavelength = [], 100.0
    line = np.zeros((3, 400, 1, 1), np.float32)
    line[0, :, 0, 0] = np.arange(400)
    for seed in range(200):
        rng = np.random.default_rng(seed)
        waves = random_waves(rng, num_waves=6, components=2, wavelength=wavelength, size=3.0)
        value = waves.at(line)
        assert value.shape == (2, 400, 1, 1)
        steepest = 2 * np.pi / (0.7 * wavelength) * np.abs(waves.amplitudes).sum(axis=0).max()
        assert np.abs(np.diff(value, axis=1)).max() <= steepest * 1.01
        size.append((value**2).mean())
    assert np.sqrt(np.mean(size)) == pytest.approx(3.0, rel=0.1)


@given(seed=st.integers(0, 10_000))
def test_rotations_stay_within_their_angle(seed):
    rotation = random_rotation(np.random.default_rng(seed), 15.0)
    assert rotation @ rotation.T == pytest.approx(np.eye(3), abs=1e-12)
    assert np.degrees(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1))) <= 15.0 + 1e-6


def test_a_pose_never_mirrors():
    poses = [random_pose(np.random.default_rng(seed)) for seed in range(50)]
    assert all(0.7 < np.linalg.det(pose[:3, :3]) < 1.4 for pose in poses)
