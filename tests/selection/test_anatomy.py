from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from pipeline.manifest import Case
from pipeline.postprocessing import Rule
from pipeline.selection.anatomy import read_anatomy
from pipeline.selection.clock import Clock
from pipeline.study import StudyConfig

LABELS = {"one": 1, "pair": 2, "many": 3, "never": 4, "body": 5}


def write(folder, name, voxels, annotated=None):
    """Write a label of 12 x 6 x 6 mm with these boxes; x runs to the right of the patient."""
    labels = np.zeros((12, 6, 6), np.uint8)
    for value, *box in voxels:
        labels[tuple(slice(start, stop) for start, stop in box)] = value
    path = folder / f"{name}.nii.gz"
    nib.save(nib.Nifti1Image(labels, np.eye(4)), path)
    return Case(name, (path,), path, subject=name, annotated=annotated)


BODY = [(5, (0, 1), (0, 6), (0, 1)), (5, (11, 12), (0, 6), (0, 1))]
"""Something at both ends, so that the plane between the sides lies in the middle."""
ONE = (1, (2, 4), (2, 4), (2, 4))
CORNER = (1, (4, 5), (4, 5), (4, 5))
"""Which shares only a corner with it."""
LEFT, RIGHT = (2, (1, 3), (0, 1), (2, 6)), (2, (9, 11), (0, 1), (2, 6))
SPECKS = [(3, (n, n + 1), (5, 6), (5, 6)) for n in (1, 3, 8)]


@pytest.fixture
def cases(tmp_path):
    return [
        write(tmp_path, "a", [*BODY, ONE, CORNER, LEFT, RIGHT, *SPECKS]),
        write(tmp_path, "b", [*BODY, ONE, LEFT]),
    ]


def test_rules_that_change_no_training_label_are_allowed(cases):
    anatomy = read_anatomy(cases, LABELS, StudyConfig(), Clock())
    assert anatomy.rules == (
        Rule(label="one", keep_largest=1),
        Rule(label="pair", one_per_side=True),
        Rule(label="body", one_per_side=True),
    )
    assert str(anatomy) == "2 training labels"


def test_one_case_of_more_is_enough_not_to(cases, tmp_path):
    stray = (1, (8, 9), (0, 1), (0, 1))
    more = write(tmp_path, "c", [*BODY, ONE, stray, LEFT, (2, (1, 3), (4, 5), (2, 6))])
    assert read_anatomy([*cases, more], LABELS, StudyConfig(), Clock()).rules == (
        Rule(label="one", one_per_side=True),
        Rule(label="body", one_per_side=True),
    )


def test_what_a_case_does_not_annotate_says_nothing(cases, tmp_path):
    stray = (1, (8, 9), (0, 1), (0, 1))
    more = write(tmp_path, "c", [*BODY, ONE, stray], annotated=("pair",))
    anatomy = read_anatomy([*cases, more], LABELS, StudyConfig(), Clock())
    assert Rule(label="one", keep_largest=1) in anatomy.rules


def test_ignored_voxels_do_not_move_the_plane_between_the_sides(tmp_path):
    """The pieces lie on either side of x = 2.5 mm, and all left of the middle up to the ignored."""
    pieces = [(5, (0, 1), (0, 6), (0, 1)), (5, (5, 6), (0, 6), (0, 1))]
    pieces += [(2, (1, 2), (3, 4), (2, 4)), (2, (4, 5), (3, 4), (2, 4))]
    case = write(tmp_path, "a", [*pieces, (9, (11, 12), (0, 6), (0, 6))])
    anatomy = read_anatomy([case], {"pair": 2, "body": 5}, StudyConfig(), Clock())
    assert Rule(label="pair", one_per_side=True) in anatomy.rules


def test_a_part_of_the_labels_allows_nothing(cases):
    no_time = SimpleNamespace(left_s=0.0, expected_s=lambda *_: 0.0)
    anatomy = read_anatomy(cases, LABELS, StudyConfig(), no_time)
    assert anatomy.rules == ()
    assert str(anatomy) == "0 of 2 training labels"


def test_no_label_is_read_when_nothing_is_left_to_allow(cases):
    cases[1].label.unlink()
    anatomy = read_anatomy(cases, {"many": 3}, StudyConfig(), Clock())
    assert (anatomy.rules, anatomy.num_cases) == ((), 1)
