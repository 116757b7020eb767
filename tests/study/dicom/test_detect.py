import os

import pytest

from pipeline.study import dicom_among, is_dicom

IMPLICIT = b"\x08\x00\x05\x00\x0a\x00\x00\x00ISO_IR 100" + bytes(200)
EXPLICIT = b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100" + bytes(200)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.dcm", b""),
        ("a.IMA", b"x"),
        ("1.2.840.1", bytes(128) + b"DICM"),
        ("1", IMPLICIT),
        ("1", EXPLICIT),
    ],
)
def test_dicom_is_told_by_name_or_content(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert is_dicom(tmp_path / name)


@pytest.mark.parametrize(
    "content",
    [b"", b"DICM", bytes(200), IMPLICIT[:100], b"\x08\x00\x05\x00" + bytes(200), b"text" * 60],
)
def test_other_files_are_not(tmp_path, content):
    (tmp_path / "1").write_bytes(content)
    assert not is_dicom(tmp_path / "1")


def test_what_cannot_be_opened_is_not(tmp_path):
    assert not is_dicom(tmp_path)
    assert not is_dicom(tmp_path / "gone")


def test_a_file_that_may_not_be_read_may_be_a_slice(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "IM0001").write_bytes(b"x")
    monkeypatch.setattr("pipeline.study.dicom.detect.open_ordinary", refuse)
    assert is_dicom(tmp_path / "IM0001")


SLICE = bytes(128) + b"DICM" + bytes(100)


def folder_of(tmp_path, others, *, count=3):
    for index in range(count):
        (tmp_path / f"IM{index:04d}").write_bytes(SLICE)
    for name, content in others.items():
        (tmp_path / name).write_bytes(content)
    return sorted(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("IM0003", b""),
        ("whatever.tmp", b""),
        ("0003.part", SLICE[:100]),
        ("blank", bytes(4096)),
        ("pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 17000\n"),
        ("annex", b"/annex/objects/SHA256E-s17--00\n"),
        ("link_as_text", b"../../.git/annex/objects/ab/SHA256E-s17--00"),
        ("IM0900", b"<html>" + b"<p>Session expired</p>" * 20),
    ],
)
def test_what_may_be_a_slice_counts_among_slices(tmp_path, name, content):
    paths = folder_of(tmp_path, {name: content})
    assert dicom_among(paths) == paths
    others = {f"notes{chr(97 + index)}.txt": b"text " * 60 for index in range(3)}
    paths = folder_of(tmp_path, others)
    assert dicom_among(paths) == [path for path in paths if path.read_bytes() == SLICE]
    assert dicom_among([tmp_path / name]) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.txt", b"short"),
        ("README", b"text " * 60),
        ("desktop.ini", b"\xff\xfe"),
        ("a.pdf", b"%PDF" * 60),
    ],
)
def test_what_is_something_else_does_not(tmp_path, name, content):
    paths = folder_of(tmp_path, {name: content})
    assert dicom_among(paths) == paths[:-1] if paths[-1].name == name else paths[1:]


def test_links_that_lead_nowhere_and_pipes_count_at_once(tmp_path):
    paths = folder_of(tmp_path, {})
    (tmp_path / "last").symlink_to(tmp_path / ".git" / "annex" / "not-there")
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe.dcm")
    assert dicom_among(tmp_path.iterdir())
    assert set(dicom_among(tmp_path.iterdir())) == {
        *paths,
        tmp_path / "last",
        tmp_path / "pipe",
        tmp_path / "pipe.dcm",
    }


def test_folders_are_looked_at_one_by_one(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    slices = folder_of(tmp_path / "a", {})
    texts = [tmp_path / "b" / name for name in ("x", "y")]
    for path in texts:
        path.write_bytes(b"")
    assert dicom_among([*texts, *slices]) == slices


def test_a_series_of_which_all_is_missing_is_told_by_its_names(tmp_path):
    paths = [tmp_path / f"IM{index:04d}" for index in range(4)]
    paths[0].symlink_to("nowhere")
    paths[1].write_bytes(b"")
    paths[2].write_text("version https://git-lfs.github.com/spec/v1\n")
    paths[3].write_bytes(bytes(500))
    (tmp_path / "done").write_bytes(b"")
    assert dicom_among(sorted(tmp_path.iterdir())) == paths
    assert dicom_among(paths[:2]) == []


def test_empty_notes_beside_slices_are_none(tmp_path):
    paths = folder_of(tmp_path, {"run.log": b"", "notes.txt": b""})
    assert [path.name for path in dicom_among(paths)] == ["IM0000", "IM0001", "IM0002"]


def test_a_packed_slice_counts_unless_it_lies_unpacked_beside(tmp_path):
    others = {"IM0007.gz": b"\x1f\x8b" + SLICE, "IM0001.gz": b"\x1f\x8b" + SLICE}
    paths = folder_of(tmp_path, others | {"notes.gz": b"\x1f\x8b" + SLICE}, count=4)
    found = [path.name for path in dicom_among(paths)]
    assert found == ["IM0000", "IM0001", "IM0002", "IM0003", "IM0007.gz"]
