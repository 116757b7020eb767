"""Files on the same voxels, stored in another order or slightly off."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from pipeline.errors import StudyError
from pipeline.study import Place, place_labels, read_label_map, read_study
from pipeline.volume import Grid

AFFINE = np.array([[1.5, 0.1, 0, 5], [-0.1, 1.5, 0, 6], [0, 0, 3.0, 7], [0, 0, 0, 1]])
LABELS = np.random.default_rng(0).integers(0, 4, (4, 5, 6)).astype(np.uint8)
TURNED = np.array([[2, 1], [0, -1], [1, -1]])


@pytest.fixture
def turned(tmp_path):
    """Return the path of LABELS, stored along other axes."""
    path = tmp_path / "turned.nii"
    nib.save(nib.Nifti1Image(LABELS, AFFINE).as_reoriented(TURNED), path)
    return path


def place(affine=AFFINE, warnings=()):
    return Place("image.nii", Grid(LABELS.shape, affine), warnings)


def test_labels_of_itk_in_another_order_are_read_as_drawn(tmp_path):
    """SimpleITK itself turns the file; its directions are LPS."""
    straight, path = np.diag([1.5, 1.5, 3, 1.0]), tmp_path / "drawn.nrrd"
    nib.save(nib.Nifti1Image(LABELS, straight), tmp_path / "straight.nii")
    SimpleITK.WriteImage(
        SimpleITK.DICOMOrient(SimpleITK.ReadImage(tmp_path / "straight.nii"), "SAL"), path
    )
    stored = read_label_map(path)
    assert stored.labels_IJK.shape != LABELS.shape
    placed = place_labels(stored, path.name, place(straight))
    np.testing.assert_array_equal(placed.labels_IJK, LABELS)
    assert placed.warnings == ()


def test_channels_are_put_in_the_order_of_the_first(tmp_path, turned):
    image = nib.Nifti1Image(LABELS * 10.0, AFFINE, dtype=np.float32)
    nib.save(image, tmp_path / "first.nii")
    study = read_study([tmp_path / "first.nii", turned], case="a", num_channels=2)
    np.testing.assert_array_equal(study.volume.data_CIJK, np.stack([LABELS * 10.0, LABELS]))
    np.testing.assert_array_equal(study.header.get_sform(), study.volume.affine)
    assert study.warnings == ()
    back = read_study([turned, tmp_path / "first.nii"], case="a", num_channels=2)
    np.testing.assert_array_equal(back.volume.affine, nib.load(turned).affine)
    np.testing.assert_array_equal(back.volume.data_CIJK[0], nib.load(turned).get_fdata())


def test_slightly_off_is_a_warning_that_says_how_far(tmp_path):
    moved = AFFINE.copy()
    moved[0, 3] += 0.03
    nib.save(nib.Nifti1Image(LABELS, moved), tmp_path / "a.nii")
    placed = place_labels(read_label_map(tmp_path / "a.nii"), "a.nii", place())
    np.testing.assert_array_equal(placed.affine, AFFINE)
    (warning,) = placed.warnings
    assert "0.03 mm" in warning
    assert "image.nii" in warning


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_half_a_voxel_is_an_error_also_in_another_order(turned, axis):
    moved = AFFINE.copy()
    moved[:3, 3] += AFFINE[:3, axis] / 2
    with pytest.raises(StudyError, match=r"\(0\.5 voxels\).*Resample"):
        place_labels(read_label_map(turned), turned.name, place(moved))


def test_nothing_is_turned_where_the_orientation_is_unknown(tmp_path):
    """Its voxels would be those of the image only by a guess, and may be mirrored."""
    guessed = nib.Nifti1Image(LABELS, None, nib.Nifti1Header())
    nib.save(guessed, tmp_path / "a.nii")
    label_map = read_label_map(tmp_path / "a.nii")
    mirrored = label_map.affine @ np.diag([-1, 1, 1, 1.0])
    mirrored[:3, 3] = label_map.grid.corners_mm()[4]
    with pytest.raises(StudyError, match=r"orientation of a\.nii is unknown"):
        place_labels(label_map, "a.nii", place(mirrored))
    kept = place_labels(label_map, "a.nii", place(label_map.affine))
    np.testing.assert_array_equal(kept.labels_IJK, LABELS)
