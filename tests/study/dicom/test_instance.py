import errno
import os

import pydicom
import pytest
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset

from pipeline.study.dicom import instance
from pipeline.study.dicom.instance import Damaged, Instance, LeftOut, read_instance, transfer_syntax
from tests.dicom_files import make_slice, save, voxels


def test_a_header_says_where_a_slice_lies_and_what_tells_it_apart(tmp_path):
    dataset = make_slice(voxels(1)[0], (1, 2, 3), series=4, EchoTime=2.4601, AcquisitionNumber=2)
    found = read_instance(save(dataset, tmp_path / "a"))
    assert isinstance(found, Instance)
    assert (found.modality, found.number, found.kind, found.problem) == ("CT", 4, "image", None)
    (one,) = found.slices
    assert one.position_mm == (1.0, 2.0, 3.0)
    assert one.axes == (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    assert (one.size, one.pixel_spacing_mm) == ((6, 7), (2.0, 1.5))
    assert 2.46 in one.traits
    assert ("ORIGINAL", "PRIMARY", "AXIAL") in one.traits


def test_values_that_are_no_numbers_are_missing(tmp_path, recwarn):
    path = save(make_slice(voxels(1)[0], (1.25, 2, 3)), tmp_path / "a")
    content = path.read_bytes()
    assert b"1.25\\2.0" in content
    path.write_bytes(content.replace(b"1.25\\2.0", b"ab.c\\2.0"))
    found = read_instance(path)
    assert found.slices[0].position_mm is None


def test_a_series_without_a_number_or_a_sign_of_its_own(tmp_path):
    found = read_instance(save(make_slice(voxels(1)[0], SeriesNumber=None), tmp_path / "a"))
    assert found.number is None
    path = save(make_slice(voxels(1)[0], SeriesInstanceUID=None), tmp_path / "b")
    assert read_instance(path) == Damaged(path)


def test_scouts_and_derived_images_are_told_by_their_type(tmp_path):
    for index, (words, kind, derived) in enumerate(
        [
            (["ORIGINAL", "PRIMARY", "SCOUT"], "localizer", False),
            (["DERIVED", "SECONDARY", "LOCALIZER"], "localizer", True),
            (["DERIVED", "PRIMARY", "ADC"], "image", False),
            (["DERIVED", "SECONDARY"], "image", True),
            (None, "image", False),
        ]
    ):
        path = save(make_slice(voxels(1)[0], ImageType=words), tmp_path / str(index))
        found = read_instance(path)
        assert (found.kind, found.is_derived) == (kind, derived)


def test_what_holds_no_image_is_left_out(tmp_path):
    directory = make_slice(voxels(1)[0], SOPClassUID=uid.MediaStorageDirectoryStorage)
    del directory.Rows, directory.Modality
    assert read_instance(save(directory, tmp_path / "DICOMDIR")) == LeftOut("other")


def test_a_directory_of_files_is_no_damaged_image(tmp_path):
    """As archives write it: what it is, its file meta information says alone."""
    directory = Dataset()
    directory.file_meta = FileMetaDataset()
    directory.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    directory.file_meta.MediaStorageSOPClassUID = uid.MediaStorageDirectoryStorage
    directory.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    directory.FileSetID, directory.DirectoryRecordSequence = "CD", []
    directory.save_as(tmp_path / "DICOMDIR", enforce_file_format=True)
    assert read_instance(tmp_path / "DICOMDIR") == LeftOut("other")


def test_files_that_are_gone_or_folders_are_damaged(tmp_path):
    assert read_instance(tmp_path) == Damaged(tmp_path)
    assert read_instance(tmp_path / "gone") == Damaged(tmp_path / "gone")


def test_a_file_that_does_not_say_its_syntax_is_plain(tmp_path):
    dataset = make_slice(voxels(1)[0])
    del dataset.file_meta
    dataset.save_as(tmp_path / "a", implicit_vr=True, little_endian=True)
    read = pydicom.dcmread(tmp_path / "a", force=True)
    assert transfer_syntax(read) == uid.ImplicitVRLittleEndian


def test_a_length_that_does_not_fit_its_type_is_damage(tmp_path):
    """Columns of three bytes, as a flipped bit makes them."""
    path = save(make_slice(voxels(1)[0]), tmp_path / "a")
    content = path.read_bytes()
    old, new = b"\x28\x00\x11\x00US\x02\x00", b"\x28\x00\x11\x00US\x03\x00"
    assert old in content
    path.write_bytes(content.replace(old, new))
    found = read_instance(path)
    assert isinstance(found, Damaged)
    assert found.series_uid is not None


def refusing(monkeypatch, module, number):
    def refuse(path):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(module, "open_ordinary", refuse)


def test_what_the_system_said_of_a_file_is_kept(tmp_path, monkeypatch):
    path = save(make_slice(voxels(1)[0]), tmp_path / "IM1")
    for number, error in ((errno.EIO, "Input/output error"), (errno.ENOENT, "")):
        refusing(monkeypatch, instance, number)
        assert read_instance(path) == Damaged(path, None, error)


def test_what_the_machine_lacks_is_no_damage(tmp_path, monkeypatch):
    path = save(make_slice(voxels(1)[0]), tmp_path / "IM1")
    refusing(monkeypatch, instance, errno.EMFILE)
    with pytest.raises(OSError, match="Too many open files"):
        read_instance(path)
