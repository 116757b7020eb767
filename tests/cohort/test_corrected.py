"""Whose mask it is, by its voxels; nibabel and SimpleITK are what a person saved it by."""

import gzip
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from pipeline.cohort.corrected import find_mask
from pipeline.errors import PipelineError, StudyError
from pipeline.output import FileRecord, hash_labels
from pipeline.output.places import Outputs
from pipeline.study import StudyInput

LABELS = {"liver": 1, "lesion": 2}


@pytest.fixture
def study(tmp_path, save_volume):
    return StudyInput("a", (save_volume(tmp_path / "in" / "a.nii.gz"),))


@pytest.fixture(name="labels_IJK")
def make_labels():
    labels_IJK = np.zeros((12, 14, 10), np.uint8)
    labels_IJK[2:5, 3:8, 4:7] = 1
    labels_IJK[6, 6, 6] = 2
    return labels_IJK


@pytest.fixture
def written(tmp_path, study, labels_IJK):
    """A mask as Trivox wrote it, and what its provenance says."""
    outputs = Outputs(tmp_path, "a")
    image = nib.load(study.sources[0])
    nib.save(nib.Nifti1Image(labels_IJK, image.affine), outputs.mask)
    provenance = SimpleNamespace(
        outputs={"mask": FileRecord.of(outputs.mask)}, mask_voxels_sha256=hash_labels(labels_IJK)
    )
    return outputs, provenance


def resave(path, labels_IJK=None, flip=(), affine=None, **header):
    image = nib.load(path)
    data = np.asarray(image.dataobj) if labels_IJK is None else labels_IJK
    again = nib.Nifti1Image(data, image.affine if affine is None else affine)
    for axis in flip:
        signs = [[0, 1], [1, 1], [2, 1]]
        signs[axis][1] = -1
        again = again.as_reoriented(np.array(signs))
    for key, value in header.items():
        again.header[key] = value
    nib.save(again, path)


def as_float(path):
    resave(path, np.asarray(nib.load(path).dataobj).astype(np.float32))


def as_int16(path):
    resave(path, np.asarray(nib.load(path).dataobj).astype(np.int16), descrip=b"3D Slicer")


def as_qform_only(path):
    image = nib.load(path)
    image.set_qform(image.affine, code=1)
    image.set_sform(None, code=0)
    nib.save(image, path)


def flipped(path):
    resave(path, flip=(0, 1))


def packed_again(path):
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 9))


def by_itk(path):
    sitk = pytest.importorskip("SimpleITK")
    sitk.WriteImage(sitk.ReadImage(str(path)), str(path))


@pytest.mark.parametrize("save", [as_float, as_int16, as_qform_only, flipped, packed_again, by_itk])
def test_the_same_voxels_stored_otherwise_are_still_ours(study, written, save):
    outputs, provenance = written
    before = outputs.mask.read_bytes()
    save(outputs.mask)
    assert outputs.mask.read_bytes() != before
    found = find_mask(study, outputs, provenance, LABELS)
    assert found.is_recorded
    assert found.corrected is None


def test_one_voxel_makes_it_a_corrected_one(study, written, labels_IJK):
    outputs, provenance = written
    labels_IJK[0, 0, 0] = 2
    resave(outputs.mask, labels_IJK)
    flipped(outputs.mask)
    found = find_mask(study, outputs, provenance, LABELS)
    assert not found.is_recorded
    np.testing.assert_array_equal(found.corrected.labels_IJK, labels_IJK)


def test_without_provenance_or_with_an_old_one_a_mask_is_a_persons(study, written):
    outputs, provenance = written
    assert find_mask(study, outputs, None, LABELS).corrected is not None
    provenance.mask_voxels_sha256 = ""
    assert find_mask(study, outputs, provenance, LABELS).is_recorded, "the bytes are recorded"
    as_float(outputs.mask)
    assert find_mask(study, outputs, provenance, LABELS).corrected is not None


def test_no_mask_is_nobodys(study, written):
    outputs, provenance = written
    outputs.mask.unlink()
    found = find_mask(study, outputs, provenance, LABELS)
    assert (found.is_recorded, found.corrected) == (False, None)


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def emptied(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("not a mask")


def a_folder(path):
    path.unlink()
    path.mkdir()


def shifted(path):
    affine = nib.load(path).affine.copy()
    affine[0, 3] += 1.5
    resave(path, affine=affine)


def cropped(path):
    resave(path, np.asarray(nib.load(path).dataobj)[:-1])


def of_two_volumes(path):
    data = np.asarray(nib.load(path).dataobj)
    resave(path, np.stack([data, data], axis=3))


def halves(path):
    resave(path, np.asarray(nib.load(path).dataobj).astype(np.float32) / 2)


def with_label_7(path):
    data = np.asarray(nib.load(path).dataobj).copy()
    data[0, 0, 0] = 7
    resave(path, data)


@pytest.mark.parametrize(
    "spoil",
    [cut, emptied, text, a_folder, shifted, cropped, of_two_volumes, halves, with_label_7],
)
def test_a_mask_that_cannot_count_is_kept_and_named_with_what_to_do(study, written, spoil):
    outputs, provenance = written
    spoil(outputs.mask)
    content = outputs.mask.read_bytes() if outputs.mask.is_file() else None
    with pytest.raises(PipelineError, match=r"a_seg.nii.gz.*--replace a\b") as raised:
        find_mask(study, outputs, provenance, LABELS)
    assert not isinstance(raised.value, StudyError), "the study is not to blame"
    assert ("7" in raised.value.found) == (spoil is with_label_7)
    if content is not None:
        assert outputs.mask.read_bytes() == content
