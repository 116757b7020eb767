import errno
import os

import pytest

from pipeline.errors import ConfigError, ManifestError, ModelError
from pipeline.system.text import FaultError, cut, guarded, read_bytes, read_text, shown


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"name\nM\xfcller\n")
    with pytest.raises(ManifestError, match=r"a.csv: byte 6 is not UTF-8 text\. Save the file"):
        read_text(path, ManifestError)


def test_what_cannot_be_read_is_told_by_its_reason(tmp_path):
    with pytest.raises(ModelError, match=r"a.csv: cannot be read \(No such file or directory\)"):
        read_text(tmp_path / "a.csv", ModelError)
    with pytest.raises(ManifestError, match=r"a folder, no ordinary file.* Do this"):
        read_text(tmp_path, ManifestError, "Do this.")
    with pytest.raises(ManifestError, match="cannot be the name of a file"):
        read_text(tmp_path / "a\0b", ManifestError)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ManifestError, match="a pipe, no ordinary file"):
        read_bytes(tmp_path / "pipe", ManifestError)


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EACCES, "Mend its permissions"),
        (errno.EIO, "Check its disk or share"),
        (errno.ENOENT, r"Do this\."),
        (errno.EINVAL, r"Do this\."),
    ],
)
def test_what_the_system_refuses_has_the_remedy_of_its_number(
    tmp_path, monkeypatch, number, remedy
):
    def refuse(path):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr("pipeline.system.text.open_ordinary", refuse)
    with pytest.raises(ManifestError, match=f"cannot be read .*{remedy}"):
        read_text(tmp_path / "a", ManifestError, "Do this.")


def test_what_is_larger_than_a_text_is_refused(tmp_path):
    path = tmp_path / "a.json"
    with path.open("wb") as file:
        file.truncate(10 * 2**40)
    with pytest.raises(ConfigError, match=r"a.json: it is larger than 64 MiB"):
        read_bytes(path, ConfigError)
    path.write_bytes(b"1234")
    assert read_bytes(path, ConfigError, largest=4) == b"1234"


def test_lines_end_in_line_feeds(tmp_path):
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfa\r\nb\rc\n")
    assert read_text(tmp_path / "a", ConfigError) == "a\nb\nc\n"


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (FaultError("odd", 3, "Do."), r"here:3: odd\. Do\."),
        (FaultError("odd"), r"here: odd\. Correct the file"),
        (RecursionError(), "here: lists and objects are nested more than 64 deep"),
        (MemoryError(), "here: there is not enough memory to read it"),
        (OverflowError("too " * 100), r"here: a value cannot be read \(too .{90,100}\.\.\.\)"),
        (KeyError("x"), "here: a value cannot be read"),
    ],
)
def test_every_kind_of_error_is_one_line(raised, message):
    def parse(_text):
        raise raised

    with pytest.raises(ConfigError, match=message):
        guarded(parse, "", "here", ConfigError, None)


def test_long_text_is_cut_before_it_is_spelled():
    assert cut("a" * 100) == "a" * 100
    assert cut("a" * 101) == "a" * 97 + "..."
    assert len(shown("\x00" * 10**7)) < 500
    assert shown(5) == "5"
