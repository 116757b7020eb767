from pathlib import Path

import pytest

from pipeline.study import is_dicom

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
    def refuse(self, *_args):
        raise PermissionError(13, "Permission denied", str(self))

    (tmp_path / "IM0001").write_bytes(b"x")
    monkeypatch.setattr(Path, "open", refuse)
    assert is_dicom(tmp_path / "IM0001")
