import os

import pytest

from pipeline.errors import StudyError
from pipeline.study import read_unchanged, stamp


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"one")
    return path


def reading(path, *changes):
    """Return what reads a file; after each reading the next of some changes happens."""
    left = list(changes)

    def read():
        content = path.read_bytes()
        if left:
            left.pop(0)(path)
        if content == b"":
            raise ValueError("empty")
        return content

    return lambda: read_unchanged("case", lambda: stamp([path]), read)


def rewrite(path):
    """Put other bytes of the same number in place, and set its time back."""
    status = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def rename(path):
    other = path.with_name("b")
    other.write_bytes(b"two")
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize("change", [rewrite, rename])
def test_what_changes_meanwhile_is_read_again(path, change):
    assert reading(path, change)() == b"two"
    assert reading(path)() == b"two"


def test_what_goes_wrong_with_a_changing_file_is_tried_again(path):
    path.write_bytes(b"")
    assert reading(path, rename)() == b"two"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="empty"):
        reading(path)()


def test_what_never_stays_is_refused(path):
    with pytest.raises(
        StudyError, match=r"case: changed while it was read\. Run again once"
    ) as error:
        reading(path, rename, rename, rename)()
    assert isinstance(error.value.__cause__, OSError)


def test_a_file_that_is_gone_has_no_stamp(path):
    assert stamp([path, path.with_name("gone")]) is None
    assert len(stamp([path, path])) == 2
