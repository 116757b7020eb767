"""Geometry, with values worked out by hand: LPS in, RAS+ out."""

import numpy as np
import pytest

from pipeline.study.dicom.instance import Slice
from pipeline.study.dicom.problems import Problem
from pipeline.study.dicom.series import plane_of
from pipeline.study.dicom.stack import Stack, stack_slices
from tests.dicom_files import AXIAL, positions_along

CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
OBLIQUE = (2 / 3, 2 / 3, 1 / 3, -2 / 3, 1 / 3, 2 / 3)


def slices_at(positions, *, axes=AXIAL, size=(6, 7), spacing_mm=(2.0, 1.5)):
    return [
        Slice(f"IM{index}", 0, size, tuple(map(float, p)), axes, spacing_mm, ())
        for index, p in enumerate(positions)
    ]


def found(slices):
    problem = stack_slices(slices)
    assert isinstance(problem, Problem)
    return problem.found


def test_columns_rows_and_slices_span_the_grid():
    """PixelSpacing gives the distance of rows first; along I, one goes from column to column."""
    stack = stack_slices(slices_at(positions_along((0, 0, 3))))
    assert stack.grid.shape == (7, 6, 5)
    expected = [[-1.5, 0, 0, 10], [0, -2, 0, 20], [0, 0, 3, 30], [0, 0, 0, 1]]
    np.testing.assert_array_equal(stack.grid.affine, expected)


def test_slices_are_sorted_along_their_normal():
    positions = positions_along((0, 0, 3))
    stack = stack_slices(slices_at([positions[i] for i in (3, 0, 4, 1, 2)]))
    assert [one.path for one in stack.slices] == ["IM1", "IM3", "IM4", "IM0", "IM2"]
    np.testing.assert_array_equal(stack.grid.affine[:3, 3], [10, 20, 30])


@pytest.mark.parametrize(
    ("axes", "step", "expected", "plane"),
    [
        # The normal of row x column: (1, 0, 0) x (0, 0, -1) = (0, 1, 0), to the back in LPS.
        (CORONAL, (0, 4, 0), [[-1.5, 0, 0], [0, 0, -4], [0, -2, 0]], "coronal"),
        # (0, 1, 0) x (0, 0, -1) = (-1, 0, 0): slices run to the right of the patient.
        (SAGITTAL, (-4, 0, 0), [[0, 0, 4], [-1.5, 0, 0], [0, -2, 0]], "sagittal"),
        (AXIAL, (0, 0, 4), [[-1.5, 0, 0], [0, -2, 0], [0, 0, 4]], "axial"),
    ],
)
def test_every_plane_is_placed(axes, step, expected, plane):
    for direction in (1, -1):
        positions = positions_along(step)[::direction]
        stack = stack_slices(slices_at(positions, axes=axes))
        np.testing.assert_array_equal(stack.grid.affine[:3, :3], expected)
        assert plane_of(stack.grid) == plane


def test_an_oblique_stack_keeps_its_angle():
    c, s = np.cos(np.radians(20)), np.sin(np.radians(20))
    axes = (1.0, 0.0, 0.0, 0.0, c, s)
    stack = stack_slices(slices_at(positions_along((0, -3 * s, 3 * c)), axes=axes))
    expected = [[-1.5, 0, 0], [0, -2 * c, 3 * s], [0, 2 * s, 3 * c]]
    np.testing.assert_allclose(stack.grid.affine[:3, :3], expected, atol=1e-12)


def test_a_tilted_gantry_gives_a_sheared_grid():
    """The table moves along z while slices are tilted: each starts higher up in its own plane."""
    c, s = np.cos(np.radians(15)), np.sin(np.radians(15))
    axes = (1.0, 0.0, 0.0, 0.0, c, s)
    stack = stack_slices(slices_at(positions_along((0, 0, 5)), axes=axes))
    np.testing.assert_allclose(stack.grid.affine[:3, 2], [0, 0, 5], atol=1e-12)
    np.testing.assert_allclose(stack.grid.affine[:3, 1], [0, -2 * c, 2 * s], atol=1e-12)


def test_positions_that_leave_the_normal_altogether_are_refused():
    assert "run at 60 degrees" in found(
        slices_at(positions_along((0, 5 * np.sqrt(3), 5))),
    )


@pytest.mark.parametrize(("gone", "after"), [((1,), 1), ((5,), 5), ((8,), 8), ((3, 4), 3)])
def test_missing_slices_are_counted_and_placed(gone, after):
    positions = [p for i, p in enumerate(positions_along(count=10)) if i not in gone]
    text = found(slices_at(positions))
    expected = f"{len(gone)} slice(s) are missing among {10 - len(gone)}, the first after slice "
    assert text.startswith(f"{expected}{after} (distances of 3 to {3 * len(gone) + 3} mm)")


@pytest.mark.parametrize("index", range(1, 499, 71))
def test_one_thin_slice_of_500_is_missed_wherever_it_was(index):
    positions = positions_along((0, 0, 0.5), count=500)
    del positions[index]
    assert "1 slice(s) are missing among 499" in found(slices_at(positions))


def test_half_a_series_of_long_gaps_is_refused():
    positions = [p for i, p in enumerate(positions_along(count=30)) if not 3 <= i < 25]
    assert "22 slice(s) are missing among 8" in found(slices_at(positions))


def test_distances_that_vary_are_refused():
    z = [0, 5, 10, 18, 24, 32]
    assert "varies from 5 to 8 mm" in found(slices_at([(0, 0, value) for value in z]))


def test_rounded_positions_are_regular():
    """Distances of 0.75 mm in a header with one decimal: 0.7 and 0.8 by turns."""
    positions = [(0, 0, round(0.75 * index, 1)) for index in range(40)]
    stack = stack_slices(slices_at(positions))
    assert isinstance(stack, Stack)
    assert stack.grid.spacing_mm[2] == pytest.approx(0.75, abs=0.005)


def test_thin_oblique_slices_rounded_in_each_coordinate_are_regular():
    axes = np.array(OBLIQUE).reshape(2, 3)
    normal = np.cross(*axes)
    positions = [tuple(np.round(0.5 * index * normal, 1)) for index in range(40)]
    stack = stack_slices(slices_at(positions, axes=OBLIQUE))
    assert isinstance(stack, Stack)
    assert stack.grid.spacing_mm[2] == pytest.approx(0.5, abs=0.005)


@pytest.mark.parametrize("count", range(4, 12))
def test_a_missing_slice_of_a_few_is_never_taken_for_rounding(count):
    for index in range(1, count - 1):
        positions = positions_along((0, 0, 0.4), count=count)
        del positions[index]
        assert isinstance(stack_slices(slices_at(positions)), Problem)


def test_slices_shifted_in_their_plane_are_refused():
    positions = positions_along(count=6)
    positions[2] = tuple(np.add(positions[2], (1.0, 0, 0)))
    assert "shifted against each other" in found(slices_at(positions))


@pytest.mark.parametrize("offset", [0.0, 0.005])
def test_slices_at_one_position_are_counted(offset):
    positions = positions_along(count=5)
    again = [tuple(np.add(p, (0, 0, offset))) for p in positions[1:3]]
    assert "7 slices lie at 5 positions" in found(slices_at(positions + again))


def test_all_slices_at_one_position():
    assert "4 slices lie at 1 positions" in found(slices_at([(0, 0, 0)] * 4))


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_slices_are_no_volume(count):
    assert f"it has {count} slice(s)" in found(slices_at(positions_along(count=count)))


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("position_mm", "ImagePositionPatient"),
        ("axes", "ImageOrientationPatient"),
        ("pixel_spacing_mm", "PixelSpacing"),
    ],
)
def test_what_a_header_lacks_is_named(field, name):
    slices = slices_at(positions_along())
    values = {key: getattr(slices[2], key) for key in Slice.__slots__}
    slices[2] = Slice(**{**values, field: None})
    assert found(slices) == f"1 of 5 images have no valid {name}"


def test_slices_that_are_not_parallel_are_refused():
    slices = slices_at(positions_along(count=4))
    turned = (1.0, 0.0, 0.0, 0.0, np.cos(0.01), np.sin(0.01))
    assert "not parallel" in found([*slices, *slices_at([(0, 0, 50)], axes=turned)])


def test_mixed_sizes_and_spacings_are_refused():
    slices = slices_at(positions_along(count=4))
    assert "2 sizes (6 x 7, 8 x 8)" in found([*slices, *slices_at([(0, 0, 50)], size=(8, 8))])
    coarse = slices_at([(0, 0, 50)], spacing_mm=(2.0, 1.6))
    assert "PixelSpacing differs" in found([*slices, *coarse])


@pytest.mark.parametrize("spacing_mm", [(0.0, 1.0), (-1.0, 1.0)])
def test_a_spacing_must_be_positive(spacing_mm):
    assert "PixelSpacing is" in found(slices_at(positions_along(), spacing_mm=spacing_mm))


@pytest.mark.parametrize(
    "axes",
    [(0.0,) * 6, (1.0, 0, 0, 1.0, 0, 0), (2.0, 0, 0, 0, 1.0, 0), (1.0, 0, 0, 0.5, 0.8, 0)],
)
def test_directions_must_be_unit_vectors_at_a_right_angle(axes):
    assert "two unit vectors at a right angle" in found(slices_at(positions_along(), axes=axes))


@pytest.mark.parametrize(
    ("steps", "found"),
    [
        ([3, 3, 3, 6, 6], "is 3 mm up to slice 4 and 6 mm from there on"),
        (
            [5, 5, 5, 2.5, 2.5, 2.5, 5, 5],
            "is 5 mm up to slice 4, 2.5 mm up to slice 7 and 5 mm",
        ),
        ([3, 3, 3, 6, 3, 3], "1 slice(s) are missing among 7, the first after slice 4"),
        ([3, 3, 3, 3, 6], "1 slice(s) are missing among 6, the first after slice 5"),
        ([3, 4, 5, 6, 7], "the distance of its slices varies from 3 to 7 mm"),
    ],
)
def test_distances_that_change_once_or_twice_are_a_protocol(steps, found):
    z = np.concatenate([[0.0], np.cumsum(steps)])
    slices = [Slice("IM", 0, (6, 7), (0.0, 0.0, float(each)), AXIAL, (2.0, 1.5), ()) for each in z]
    problem = stack_slices(slices)
    assert found in problem.found
