import errno
import shutil
from pathlib import Path

import pytest

from pipeline.system import disk
from pipeline.system.disk import (
    errors_named,
    explain,
    free_bytes,
    in_words,
    is_time_out,
    of_machine,
)


class SafetensorError(Exception):
    pass


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    OSError(errno.ENOSPC, "No space left on device", "/out/.writing-1/file.json"),
    SafetensorError("I/O error: No space left on device (os error 28)"),
    # What numpy and torch say, which needs a look at the disk.
    OSError("1000000 requested and 25584 written"),
    RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
]


def raise_(error):
    raise error


@pytest.fixture
def full(monkeypatch):
    """Leave 12,345 bytes on the disk."""
    usage = shutil.disk_usage("/")._replace(free=12_345)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)


@pytest.mark.parametrize("error", FULL, ids=str)
def test_a_full_disk_is_told_with_path_and_room(full, error):
    with (
        pytest.raises(OSError, match=r"disk is full: 12.3 kB") as found,
        errors_named(Path("/out/a.json"), Path("/out/.writing-1")),
    ):
        raise_(error)
    assert found.value.filename == "/out/a.json"
    assert found.value.errno == (getattr(error, "errno", None) or errno.ENOSPC)


def test_other_errors_of_writing_name_what_was_to_be_written():
    for error in (
        PermissionError(errno.EACCES, "Permission denied", "/out/.writing-1/file.json"),
        OSError("1000000 requested and 25584 written"),
    ):
        with (
            pytest.raises(type(error), match=r"denied|25584") as found,
            errors_named(Path("/out/a.json"), Path("/out/.writing-1")),
        ):
            raise_(error)
        assert found.value.filename == "/out/a.json"


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file", "/in/b.json"),
        TimeoutError("the archive is silent"),
        RuntimeError("a bug"),
        ValueError("a bug"),
    ],
)
def test_errors_of_something_else_stay_as_they_are(error):
    with pytest.raises(type(error)) as found, errors_named(Path("/out/a.json"), Path("/out/.w")):
        raise_(error)
    assert found.value is error


def test_what_is_free_where_nothing_lies_yet(tmp_path):
    assert free_bytes(tmp_path / "new" / "deep") > 0


def test_bytes_in_words():
    assert [in_words(n) for n in (0, 1_500, 2_340_000, 5 * 10**10)] == [
        "0.0 kB", "1.5 kB", "2.3 MB", "50.0 GB",
    ]  # fmt: skip


def test_another_disk_that_is_full_is_named_and_not_the_one_written_to(tmp_path, monkeypatch):
    small = tmp_path / "small"
    monkeypatch.setattr(disk.tempfile, "gettempdir", lambda: str(small))
    monkeypatch.setattr(disk, "free_bytes", lambda path: 4096 if path == small else 10**9)
    for name in (None, str(small / "tmpab12" / "slice.j2k")):
        with (
            pytest.raises(OSError, match="No space") as found,
            errors_named(tmp_path / "out" / "a"),
        ):
            raise OSError(errno.ENOSPC, "No space left on device", name)
        told = explain(found.value)
        assert told.where == f"TMPDIR ({small})"
        assert told.is_full


def test_what_the_machine_lacks_is_found_behind_an_error():
    def fail(number):
        try:
            raise OSError(number, "no")
        except OSError as error:
            raise ValueError("the file is torn") from error

    for number, is_machine in ((errno.ENOSPC, True), (errno.EMFILE, True), (errno.ENOENT, False)):
        with pytest.raises(ValueError, match="torn") as found:
            fail(number)
        assert (of_machine(found.value) is not None) is is_machine


def test_a_share_that_is_silent_is_no_time_out_of_ours():
    assert is_time_out(TimeoutError("5 s"))
    assert not is_time_out(TimeoutError(errno.ETIMEDOUT, "Connection timed out", "/share/a"))
    assert "share answers" in explain(TimeoutError(errno.ETIMEDOUT, "timed out", "/a")).remedy
