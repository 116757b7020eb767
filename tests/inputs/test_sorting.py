"""Files are sorted by what they are, wherever they lie together."""

import os

from pipeline.inputs.sorting import refuse_folders, refuse_special, sort_files
from tests.dicom_files import make_series, save_series, voxels


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_dicom_files_count_beside_volumes(tmp_path):
    slices = save_series(make_series(voxels()), tmp_path)
    touch(tmp_path / "a.nii", tmp_path / "b.gipl", tmp_path / "notes.txt", tmp_path / "t.csv")
    kinds = sort_files(tmp_path.iterdir(), (), b"")
    assert list(kinds.volumes) == [tmp_path / "a.nii"]
    assert sorted(kinds.dicom) == sorted(slices)
    assert [study.case for study in kinds.refused] == ["b.gipl"]


def test_a_file_that_was_named_is_left_to_the_reader(tmp_path):
    touch(tmp_path / "scan.jpg", tmp_path / "scan.gipl")
    named = [tmp_path / "scan.jpg", tmp_path / "scan.gipl"]
    kinds = sort_files(named, named, b"")
    assert list(kinds.volumes) == [tmp_path / "scan.jpg"]
    assert [study.case for study in kinds.refused] == ["scan.gipl"]


def test_voxels_stand_for_their_header(tmp_path):
    touch(tmp_path / "a.hdr", tmp_path / "a.img", tmp_path / "B.HDR", tmp_path / "B.IMG")
    kinds = sort_files([tmp_path / "a.img", tmp_path / "B.IMG"], [tmp_path / "a.img"], b"")
    found = {*kinds.volumes, *(path for study in kinds.refused for path in study.sources)}
    assert found == {tmp_path / "a.hdr", tmp_path / "B.HDR"}


def test_a_closed_note_beside_volumes_is_no_slice(tmp_path, monkeypatch):
    touch(tmp_path / "a.nii", tmp_path / "note")
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.R_OK and allowed(path, mode))
    assert sort_files([tmp_path / "a.nii", tmp_path / "note"], (), b"").dicom == []


def test_pipes_with_names_of_images_are_refused(tmp_path):
    for name in ("a.nii.gz", "b.dcm", "c.gipl", "chat"):
        os.mkfifo(tmp_path / name)
    studies = refuse_special(sorted(tmp_path.iterdir()))
    assert [study.case for study in studies] == ["a.nii.gz", "c.gipl"]
    assert {study.refusal for study in studies} == {
        "it is a pipe, no ordinary file. Give a file, or leave it out."
    }


def test_a_folder_is_refused_once(tmp_path):
    touch(tmp_path / "a" / "1", tmp_path / "a" / "2", tmp_path / "b" / "1")
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    studies = refuse_folders(files, "{} files.", b"")
    assert [study.refusal for study in studies] == ["2 files.", "1 files."]
