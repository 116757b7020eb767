import csv
import hashlib
import hmac
import os
import stat
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.inputs import load_salt, write_key
from pipeline.inputs.naming import hashed_name
from pipeline.study import DicomSeries, StudyInput
from pipeline.system.ownership import REPLACED


def series(uid="1.2.3", folder="Doe, Jane"):
    return DicomSeries(uid, "1.2", "CT", 4, (Path(folder) / "IM1",))


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_name_is_a_keyed_hash():
    """RFC 4231, test case 2: HMAC-SHA-256 of key "Jefe" begins with 5bdcc146bf60754e6a04."""
    assert hashed_name(b"Jefe", "what do ya want for nothing?") == "dicom_5bdcc146bf"


def test_names_depend_on_salt_series_and_part():
    names = {
        hashed_name(salt, uid, part) for salt in (b"a", b"b") for uid in "12" for part in ("", "x")
    }
    assert len(names) == 8


def test_the_salt_is_random_private_and_stays(tmp_path):
    salt = load_salt(tmp_path / "a")
    assert len(salt) == 32
    assert load_salt(tmp_path / "a") == salt
    assert load_salt(tmp_path / "b") != salt
    assert mode(tmp_path / "a" / ".trivox" / "salt") == 0o600
    assert mode(tmp_path / "a" / ".trivox") == 0o700
    assert [path.name for path in (tmp_path / "a" / ".trivox").iterdir()] == ["salt"]


def test_of_two_that_make_a_salt_at_once_one_wins(tmp_path, monkeypatch):
    """The other process writes its salt between our look and our link."""
    original = os.link

    def late(source, target):
        target.write_bytes(b"o" * 32)
        original(source, target)

    monkeypatch.setattr("os.link", late)
    assert load_salt(tmp_path) == b"o" * 32


def test_file_systems_without_links_get_a_salt(tmp_path, monkeypatch):
    def refuse(source, target):
        raise PermissionError

    monkeypatch.setattr("os.link", refuse)
    assert load_salt(tmp_path) == load_salt(tmp_path)


@pytest.mark.parametrize("bit", range(0, 8 * 36, 7))
def test_a_salt_in_which_a_bit_changed_is_not_used(tmp_path, bit):
    """All studies would get other names, and corrected masks under the old ones be forgotten."""
    load_salt(tmp_path)
    path = tmp_path / ".trivox" / "salt"
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"salt: .* damaged.* Restore it"):
        load_salt(tmp_path)


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 31, b"x" * 33, b"x" * 36, b"x" * 99])
def test_a_damaged_salt_is_not_used(tmp_path, content):
    load_salt(tmp_path)
    (tmp_path / ".trivox" / "salt").write_bytes(content)
    with pytest.raises(ConfigError, match=r"salt: .* damaged"):
        load_salt(tmp_path)


def test_a_salt_of_an_earlier_version_stays(tmp_path):
    load_salt(tmp_path)
    (tmp_path / ".trivox" / "salt").write_bytes(b"s" * 32)
    assert load_salt(tmp_path) == b"s" * 32


def test_an_output_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(ConfigError, match="Choose another folder"):
        load_salt(tmp_path / "out")


def read(out):
    with (out / ".trivox" / "key.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_key_leads_back_to_series_and_is_private(tmp_path):
    studies = [StudyInput("dicom_1", (series(),)), StudyInput("scan", (Path("scan.nii"),))]
    write_key(tmp_path, studies)
    assert read(tmp_path) == [
        {
            "case": "dicom_1",
            "SeriesInstanceUID": "1.2.3",
            "StudyInstanceUID": "1.2",
            "folder": str(Path("Doe, Jane").absolute()),
        }
    ]
    assert mode(tmp_path / ".trivox" / "key.csv") == 0o600


def test_the_key_keeps_what_earlier_calls_wrote(tmp_path):
    write_key(tmp_path, [StudyInput("dicom_1", (series(),))])
    write_key(tmp_path, [StudyInput("dicom_1", (series(),)), StudyInput("b", (series("9"),))])
    assert [row["case"] for row in read(tmp_path)] == ["dicom_1", "b"]
    assert mode(tmp_path / ".trivox" / "key.csv") == 0o600


@pytest.mark.parametrize("theirs", [b"mine\n\0\n", b"a,b\n\xff\n", b"case\ndicom_0\n"])
def test_what_is_no_key_is_kept_beside_it(tmp_path, theirs):
    load_salt(tmp_path)
    (tmp_path / ".trivox" / "key.csv").write_bytes(theirs)
    write_key(tmp_path, [StudyInput("dicom_1", (series(),))])
    assert [row["case"] for row in read(tmp_path)] == ["dicom_1"]
    (kept,) = (tmp_path / REPLACED).rglob("key.csv")
    assert kept.read_bytes() == theirs


def test_a_folder_of_odd_bytes_is_read_back_from_the_key(tmp_path):
    odd = series(folder=b"/\xff".decode("utf-8", "surrogateescape"))
    write_key(tmp_path, [StudyInput("dicom_1", (odd,))])
    write_key(tmp_path, [StudyInput("dicom_2", (series("9"),))])
    key = (tmp_path / ".trivox" / "key.csv").read_bytes()
    assert b"/\xff" in key
    assert key.count(b"dicom_") == 2


def test_without_dicom_there_is_no_key(tmp_path):
    write_key(tmp_path, [StudyInput("scan", (Path("scan.nii"),))])
    assert not list(tmp_path.iterdir())


def test_the_hash_is_that_of_the_standard_library():
    digest = hmac.new(b"k", b"1.2\0EchoTime 2", hashlib.sha256).hexdigest()
    assert hashed_name(b"k", "1.2", "EchoTime 2") == f"dicom_{digest[:10]}"
