"""Volumes of the instances of a series, as they come out of a scan."""

import shutil

import pydicom
import pytest
from pydicom import uid

from pipeline.study import find_series
from tests.dicom_files import (
    make_series,
    make_slice,
    positions_along,
    save,
    save_series,
    voxels,
)


@pytest.fixture
def series(tmp_path):
    return save_series(make_series(voxels()), tmp_path)


def only(folder):
    (found,) = find_series([folder])
    return found


def test_a_copied_file_counts_once(tmp_path, series):
    shutil.copy(series[2], tmp_path / "copy")
    shutil.copytree(tmp_path, tmp_path / "again")
    assert only(tmp_path).refusal is None
    assert len(only(tmp_path).files) == 5


def test_two_different_files_of_one_image_are_refused(tmp_path, series):
    content = bytearray(series[2].read_bytes())
    content[-1] ^= 1
    (tmp_path / "changed").write_bytes(content)
    assert only(tmp_path).refusal == "two of its files say that they are the same image, and differ"


def test_a_copy_exported_by_another_archive_counts_once(tmp_path, series):
    copy = pydicom.dcmread(series[2])
    copy.file_meta.ImplementationVersionName = "OTHER"
    copy.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian
    copy.save_as(tmp_path / "copy", enforce_file_format=True)
    assert only(tmp_path).refusal is None
    assert len(only(tmp_path).files) == 5


def test_localizers_and_captures_stand_apart(tmp_path):
    volume = make_series(voxels())
    scout = make_slice(voxels(1)[0], instance=50, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    capture = make_slice(
        voxels(1)[0], instance=51, series=2, SOPClassUID=uid.SecondaryCaptureImageStorage
    )
    save_series([*volume, scout, capture], tmp_path)
    by_refusal = {s.refusal: s for s in find_series([tmp_path])}
    assert set(by_refusal) == {
        None,
        "it is a localizer",
        "it is a screen capture (Secondary Capture)",
    }
    assert len(by_refusal[None].files) == 5
    assert [s.is_volume for s in by_refusal.values()].count(False) == 2


def test_images_of_several_studies_or_modalities_under_one_series_are_refused(tmp_path):
    slices = make_series(voxels())
    slices[1].StudyInstanceUID += ".9"
    save_series(slices, tmp_path / "a")
    assert "belong to 2 studies" in only(tmp_path / "a").refusal
    slices = make_series(voxels())
    slices[1].Modality = "MR"
    save_series(slices, tmp_path / "b")
    assert "belong to 2 modalities" in only(tmp_path / "b").refusal


def test_a_series_of_which_every_second_image_is_missing_is_warned_about(tmp_path):
    """Their distances are regular; only their numbers tell."""
    slices = make_series(voxels(10), positions_along(count=10))
    save_series(slices[::2], tmp_path / "half")
    (text,) = only(tmp_path / "half").warnings
    assert text == "image numbers are skipped throughout: every second slice may be missing"
    save_series(slices, tmp_path / "whole")
    assert only(tmp_path / "whole").warnings == ()


def test_images_without_an_identity_are_no_copies(tmp_path):
    for path in save_series(make_series(voxels()), tmp_path):
        content = path.read_bytes()
        path.write_bytes(content.replace(b"\x08\x00\x18\x00UI", b"\x08\x00\x17\x00UI"))
    assert only(tmp_path).refusal is None


def test_slices_of_two_frames_of_reference_are_no_volume(tmp_path):
    def frame(index):
        return {"FrameOfReferenceUID": f"1.2.{index // 3}"}

    save_series(make_series(voxels(), each=frame), tmp_path)
    found = only(tmp_path).refusal
    assert found == "its slices are one stack, but differ in FrameOfReferenceUID"


@pytest.mark.parametrize("name", ["PatientID", "PatientBirthDate"])
def test_images_of_two_patients_are_never_one_series(tmp_path, name):
    """Whichever slices are the other patient's: a single one, every second, or one half."""
    value = "19510203"
    for index, others in enumerate([{2}, {1, 3, 5}, {3, 4, 5}]):
        folder = tmp_path / str(index)
        slices = make_series(voxels(6), each=lambda k, o=others: {name: value} if k in o else {})
        save_series(slices, folder)
        (found,) = find_series([folder])
        assert found.refusal == "its images belong to 2 patients"
        assert found.remedy == "Export the images of each patient as a series of their own."
        assert value not in repr(found)


@pytest.mark.parametrize("value", ["", None])
def test_a_patient_whose_id_some_images_lack_is_one(tmp_path, value):
    slices = make_series(voxels(6), each=lambda k: {"PatientID": value} if k % 2 else {})
    save_series(slices, tmp_path)
    assert only(tmp_path).refusal is None


def test_two_passes_of_one_series_are_two_volumes(tmp_path):
    slices = make_series(
        voxels(8), each=lambda k: {"AcquisitionNumber": 1 + k % 2, "InstanceNumber": 1 + k // 2}
    )
    save_series(slices, tmp_path)
    assert [s.part for s in find_series([tmp_path])] == [
        "AcquisitionNumber 1",
        "AcquisitionNumber 2",
    ]


def test_an_image_that_is_there_twice_by_another_name_counts_once(tmp_path):
    slices = make_series(voxels(6))
    save_series(slices, tmp_path)
    slices[2].SOPInstanceUID += ".7"
    save(slices[2], tmp_path / "again")
    (found,) = find_series([tmp_path])
    assert found.grid.shape == (7, 6, 6)
    assert found.warnings == (
        "1 image(s) are there twice under names of their own, and count once",
    )


def test_another_image_at_the_same_place_is_no_copy(tmp_path):
    slices = make_series(voxels(6))
    save_series(slices, tmp_path)
    slices[2].SOPInstanceUID += ".7"
    slices[2].PixelData = bytes(len(slices[2].PixelData))
    save(slices[2], tmp_path / "again")
    assert only(tmp_path).refusal.startswith("7 slices lie at 6 positions")
