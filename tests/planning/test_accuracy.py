import nibabel as nib
import numpy as np
import pytest

from pipeline.manifest import Case
from pipeline.planning import survey
from pipeline.planning.survey import keep, look_closely
from pipeline.volume import LabelMap


def ball(radius, size=40, spacing_mm=1.0):
    axes = (np.arange(size) - (size - 1) / 2) * spacing_mm
    distance = np.sqrt(sum(along**2 for along in np.meshgrid(axes, axes, axes, indexing="ij")))
    return LabelMap((distance < radius).astype(np.uint8), np.diag([spacing_mm] * 3 + [1.0]))


def test_nothing_is_lost_at_the_spacing_that_labels_have():
    assert keep(ball(10), (1.0, 1.0, 1.0), {"organ": 1}) == (1.0, 0.0)


def test_coarser_grids_lose_more_and_thin_things_most():
    large = [keep(ball(14), (mm, mm, mm), {"organ": 1})[0] for mm in (1.0, 1.5, 3.0)]
    small = [keep(ball(4), (mm, mm, mm), {"organ": 1})[0] for mm in (1.0, 1.5, 3.0)]
    assert large == sorted(large, reverse=True)
    assert small == sorted(small, reverse=True)
    assert 1 - small[2] > 2 * (1 - large[2])
    # A shell of half a voxel around a ball of radius 14: Dice of at least 1 - 1.5 / 14.
    assert 0.9 < large[2] < 0.99


def test_a_plate_of_one_voxel_is_lost_at_five_times_its_thickness():
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[:, :, 9] = 1  # Voxels of the grid lie at 2, 7, 12 and 17.
    dice, hd95_mm = keep(LabelMap(labels, np.eye(4)), (1.0, 1.0, 5.0), {"plate": 1})
    assert dice == 0
    assert hd95_mm == pytest.approx(20 * np.sqrt(3))


def test_ignored_voxels_count_for_nothing():
    labels = ball(10)
    labels.labels_IJK[:20] = np.where(labels.labels_IJK[:20] == 1, 9, labels.labels_IJK[:20])
    assert keep(labels, (1.0, 1.0, 1.0), {"organ": 1}, ignore_value=9) == (1.0, 0.0)


@pytest.fixture
def cases(tmp_path):
    made = []
    for number in range(9):
        labels = np.zeros((30, 20, 10), np.uint8)
        labels[5:15, 4:12, 2:7] = 1
        labels[20:22, 15:17, 8] = 1  # A second, smaller component.
        affine = np.diag([-2.0, 1.0, 3.0, 1.0])  # Runs to the left.
        path = tmp_path / f"{number}.nii.gz"
        nib.save(nib.Nifti1Image(labels, affine), path)
        made.append(Case(str(number), (path,), path, str(number)))
    return made


def test_the_extent_is_that_of_the_largest_component(cases, manifest):
    look = look_closely(cases, manifest, [(2.0, 1.0, 3.0), (4.0, 2.0, 3.0)])
    assert look.extents_mm == {1: (20.0, 8.0, 15.0)}
    assert look.num_cases == 5
    assert [one.spacing_mm for one in look.accuracies] == [(2.0, 1.0, 3.0), (4.0, 2.0, 3.0)]
    assert look.accuracies[0].dice == 1.0
    assert look.accuracies[1].dice < 1.0


def test_no_more_cases_are_looked_at_than_the_voxels_around_their_labels_allow(
    cases, manifest, monkeypatch
):
    """A box of 17 x 9 x 7 voxels around the labels and 8 more on each side, within the volume."""
    monkeypatch.setattr(survey, "MOST_VOXELS", 2 * 30 * 20 * 10)
    look = look_closely(cases, manifest, [(2.0, 1.0, 3.0)])
    assert look.num_cases == 2
    assert look.extents_mm == {1: (20.0, 8.0, 15.0)}


def test_of_a_large_case_each_structure_is_looked_at_by_itself_in_so_many_voxels(monkeypatch):
    labels = np.zeros((90, 80, 70), np.uint8)
    labels[10:60, 10:60, 10:60] = 1
    labels[11:59, 11:59, 11:59] = 0  # Hollow, so that nothing is in its middle.
    labels[80:84, 70:73, 60:63] = 2
    label_map = LabelMap(labels, np.diag([1.0, 2.0, 3.0, 1.0]))
    structures = {"shell": 1, "grain": 2, "absent": 3}
    assert list(survey._parts(label_map, structures)) == [(label_map, structures)]
    monkeypatch.setattr(survey, "MOST_OF_CASE", 3 * 7000)
    (shell, of_shell), (grain, of_grain) = survey._parts(label_map, structures)
    assert (of_shell, of_grain) == ({"shell": 1}, {"grain": 2})
    assert 5000 < shell.labels_IJK.size <= 7000
    assert (shell.labels_IJK == 1).any()
    # The whole of what is small, with 8 voxels around within the volume, where it lies.
    assert grain.labels_IJK.shape == (4 + 8 + 6, 3 + 8 + 7, 3 + 8 + 7)
    assert (grain.labels_IJK == 2).sum() == 36
    assert grain.affine[:3, 3].tolist() == [72, 2 * 62, 3 * 52]
    kept = [
        survey._keep_all([(shell, of_shell), (grain, of_grain)], (mm, 2.0, 3.0), None)
        for mm in (1.0, 3.0)
    ]
    assert kept[0] == (1.0, 0.0)
    assert kept[1][0] == pytest.approx(
        np.mean(
            [keep(shell, (3.0, 2.0, 3.0), of_shell)[0], keep(grain, (3.0, 2.0, 3.0), of_grain)[0]]
        )
    )
    assert kept[1][0] < 1


def test_cases_without_labelled_voxels_bound_nothing(cases, manifest):
    for case in cases:
        nib.save(nib.Nifti1Image(np.zeros((9, 9, 9), np.uint8), np.eye(4)), case.label)
    look = look_closely(cases, manifest, [(1.0, 1.0, 1.0)])
    assert look.accuracies[0].dice == 1.0
    assert look.extents_mm == {}
