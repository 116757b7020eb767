"""Distances of stray pieces in masks made by hand."""

import numpy as np
import pytest

from benchmarks.planning.scoring import stray_mm
from pipeline.volume import LabelMap

AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])


@pytest.fixture
def reference():
    mask = np.zeros((12, 8, 6), bool)
    mask[1:4, 1:4, 1:4] = True
    return mask


def stray_of(prediction, reference):
    return stray_mm(prediction, reference, LabelMap(reference.astype(np.uint8), AFFINE))


def test_a_piece_that_shares_a_voxel_is_none_however_far_it_reaches(reference):
    prediction = np.zeros_like(reference)
    prediction[3:, 3, 3] = True
    assert stray_of(prediction, reference) == 0
    assert stray_of(np.zeros_like(reference), reference) == 0


def test_the_farthest_voxel_of_the_farthest_piece_counts(reference):
    prediction = reference.copy()
    prediction[6:8, 2, 2] = True  # 4 mm from voxel 3 along the first axis.
    assert stray_of(prediction, reference) == pytest.approx(4)
    prediction[6, 7, 5] = True  # 3, 4 x 2 and 2 x 3 mm.
    assert stray_of(prediction, reference) == pytest.approx(np.sqrt(9 + 64 + 36))


def test_a_piece_beside_the_reference_is_stray_unless_joined_at_a_corner(reference):
    prediction = np.zeros_like(reference)
    prediction[4, 4, 4] = True
    assert stray_of(prediction, reference) == pytest.approx(np.sqrt(1 + 4 + 9))
    prediction[3, 3, 3] = True
    assert stray_of(prediction, reference) == 0


def test_without_a_reference_a_piece_is_as_far_as_can_be(reference):
    nothing = np.zeros_like(reference)
    assert stray_of(reference, nothing) == pytest.approx(np.sqrt(12**2 + 16**2 + 18**2))
    assert stray_of(nothing, nothing) == 0
