import nibabel as nib
import numpy as np
import pytest

from pipeline.errors import StudyError
from pipeline.refinement.inputs import RefinementConfig, open_inputs, read_image, read_segmentation


def test_labels_of_any_size_become_classes(case):
    labels = np.array([7, 70_000, 2**31 - 1])[case.class_IJK].astype(np.int32)
    path = case.save("large.nii.gz", labels)
    segmentation = read_segmentation(open_inputs(case.request().images, path, "labels"))
    assert segmentation.values.tolist() == [0, 7, 70_000, 2**31 - 1]
    assert segmentation.class_IJK.dtype == np.uint8
    np.testing.assert_array_equal(segmentation.labels(segmentation.class_IJK), labels)


def test_probabilities_in_steps_are_read_as_segment_writes_them(case):
    steps = np.rint(255 * np.moveaxis(case.probability_CIJK, 0, 3)).astype(np.uint8)
    image = nib.load(case.folder / "probabilities.nii.gz")
    header = image.header.copy()
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1 / 255, 0)
    stored = nib.Nifti1Image(np.float32(steps / 255), image.affine, header)
    nib.save(stored, case.folder / "steps.nii.gz")
    headers = open_inputs(case.request().images, case.folder / "steps.nii.gz", "probabilities")
    read = read_segmentation(headers)
    assert read.probability_CIJK.dtype == np.float32
    np.testing.assert_allclose(read.probability_CIJK, case.probability_CIJK, atol=0.003)
    np.testing.assert_array_equal(read.class_IJK, read.probability_CIJK.argmax(axis=0))


@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_another_grid_is_refused_by_name(case, kind):
    request = case.request(kind)
    stored = nib.load(request.segmentation)
    voxels, moved = np.asanyarray(stored.dataobj), stored.affine.copy()
    moved[0, 3] += 0.5
    for path, found in (
        (case.save("moved.nii.gz", voxels, moved), r"moved.nii.gz: voxels lie up to 0.5 mm"),
        (case.save("cut.nii.gz", voxels[1:]), r"cut.nii.gz: grid \(19, 18, 16\) differs from"),
    ):
        with pytest.raises(StudyError, match=found + r".* image.nii.gz.*\. Resample"):
            open_inputs(request.images, path, kind)


def test_an_image_in_another_order_is_put_in_that_of_the_labels(case):
    request = case.request()
    stored = nib.load(request.images[0])
    turned = stored.as_reoriented(np.array([[2, -1], [0, 1], [1, -1]]))
    nib.save(turned, case.folder / "turned.nii.gz")
    paths = [case.folder / "turned.nii.gz"]
    headers = open_inputs(paths, request.segmentation, "labels")
    study = read_image(headers, RefinementConfig())
    np.testing.assert_array_equal(study.volume.data_CIJK[0], stored.get_fdata(dtype=np.float32))
    np.testing.assert_array_equal(study.volume.affine, headers.segmentation.affine)


def test_probabilities_must_exclude_each_other(case):
    request = case.request("probabilities")
    share = np.moveaxis(case.probability_CIJK, 0, 3).copy()
    share[4, 5, 6] = 0.5, 0.9, 0.8
    path = case.save("regions.nii.gz", share)
    text = r"regions.nii.gz: probabilities sum to 2.2 instead of 1 in one voxel.*1 of 5760.*regions"
    with pytest.raises(StudyError, match=text):
        read_segmentation(open_inputs(request.images, path, "probabilities"))


@pytest.mark.parametrize("value", [-0.5, 1.5, np.nan])
def test_values_that_are_no_probabilities(case, value):
    share = np.moveaxis(case.probability_CIJK, 0, 3).copy()
    share[1, 2, 3, 0] = value
    path = case.save("logits.nii.gz", share)
    headers = open_inputs(case.request().images, path, "probabilities")
    with pytest.raises(StudyError, match="which are no probabilities"):
        read_segmentation(headers)


def test_labels_and_probabilities_are_not_mixed_up(case):
    labels, shares = case.request(), case.request("probabilities")
    with pytest.raises(StudyError, match="holds 3 volumes; a label map is one"):
        open_inputs(labels.images, shares.segmentation, "labels")
    with pytest.raises(StudyError, match="holds 1 volume; probabilities are one of each class"):
        open_inputs(labels.images, labels.segmentation, "probabilities")


def test_missing_files_are_named(case):
    missing = case.folder / "none.nii.gz"
    with pytest.raises(StudyError, match=r"none.nii.gz: file does not exist"):
        open_inputs([missing], case.request().segmentation, "labels")
    with pytest.raises(StudyError, match=r"none.nii.gz: file does not exist"):
        open_inputs(case.request().images, missing, "labels")
