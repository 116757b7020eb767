import hashlib
import os
import signal
import stat
import subprocess
import sys
import time

import pytest

from pipeline.system import files
from pipeline.system.files import (
    atomic_folder,
    atomic_path,
    link_or_copy,
    sha256_of,
    write_text,
)
from pipeline.system.private import PRIVATE

KILLED = """
import os, signal
from pathlib import Path
from pipeline.system.files import atomic_folder, atomic_path

with {writer}(Path({target!r})) as temporary:
    {write}
    os.kill(os.getpid(), signal.SIGKILL)
"""


def kill_while_writing(writer, target, write):
    script = KILLED.format(writer=writer, target=str(target), write=write)
    result = subprocess.run([sys.executable, "-c", script], check=False)
    assert result.returncode == -signal.SIGKILL


def visible(folder):
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


@pytest.fixture
def umask():
    """Set the umask of this process for a test."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


# --- One file ---


def test_file_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "new" / "deep" / "a.txt"
    with atomic_path(target) as temporary:
        temporary.write_text("content")
        assert not target.exists()
    assert target.read_text() == "content"
    assert list(target.parent.iterdir()) == [target]


def test_old_content_stays_until_then(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with atomic_path(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"


@pytest.mark.parametrize("old", [None, "old"])
def test_error_leaves_things_as_they_were(tmp_path, old):
    target = tmp_path / "a.txt"
    if old:
        target.write_text(old)

    def fail():
        with atomic_path(target) as temporary:
            temporary.write_text("half of it")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert [path.read_text() for path in tmp_path.iterdir()] == ([old] if old else [])


def test_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.txt"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("old", [None, "old"])
def test_killed_while_writing(tmp_path, old):
    target = tmp_path / "a.txt"
    if old:
        target.write_text(old)
    kill_while_writing("atomic_path", target, "temporary.write_text('half of it')")
    assert visible(tmp_path) == ({"a.txt"} if old else set())
    assert not old or target.read_text() == old
    write_text(target, "new")
    assert target.read_text() == "new"


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("a.nii.gz", ".nii.gz"),
        ("a.b.nii.gz", ".nii.gz"),
        ("a.nii", ".nii"),
        ("2024.01.05.nii.gz", ".nii.gz"),
        ("case.v2.csv", ".csv"),
        ("a", ""),
    ],
)
def test_suffix_is_kept(tmp_path, name, suffix):
    with atomic_path(tmp_path / name) as temporary:
        assert temporary.name == f"file{suffix}"
        temporary.touch()
    assert (tmp_path / name).is_file()


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_permissions_obey_the_umask(tmp_path, umask, mask, mode):
    umask(mask)
    write_text(tmp_path / "a.txt", "content")
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == mode


@pytest.mark.parametrize("private", [False, True])
def test_permissions_obey_the_umask_whatever_a_library_does(tmp_path, umask, private):
    umask(0o027)
    target = tmp_path / PRIVATE / "key.csv" if private else tmp_path / "model.safetensors"
    with atomic_path(target) as temporary:
        temporary.touch(mode=0o600)
    with atomic_folder(tmp_path / "bundle") as folder:
        (folder / "models").mkdir()
        (folder / "models" / "a.safetensors").touch(mode=0o600)
    written = tmp_path / "bundle" / "models" / "a.safetensors"
    assert stat.S_IMODE(target.stat().st_mode) == (0o600 if private else 0o640)
    assert stat.S_IMODE(written.stat().st_mode) == 0o640


def test_a_file_that_has_another_name_keeps_its_permissions(tmp_path, umask):
    source = tmp_path / "mine.bin"
    source.touch(mode=0o600)
    link_or_copy(source, tmp_path / "b.bin")
    assert stat.S_IMODE(source.stat().st_mode) == 0o600


def test_bytes_are_on_disk_before_the_rename(tmp_path, monkeypatch):
    target, synced = tmp_path / "a.txt", []

    def fsync(descriptor):
        assert not target.exists()
        synced.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fsync", fsync)
    write_text(target, "content")
    assert synced == [7]


def test_text_is_utf8(tmp_path):
    write_text(tmp_path / "a.txt", "Größe ≥ 1")
    assert (tmp_path / "a.txt").read_bytes() == "Größe ≥ 1".encode()


# --- A folder ---


def test_folder_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "new" / "key"
    with atomic_folder(target) as temporary:
        (temporary / "a").write_text("a")
        (temporary / "b").write_text("b")
        assert not target.exists()
    assert visible(target) == {"a", "b"}
    assert list(target.parent.iterdir()) == [target]


def test_a_folder_that_is_there_stays_for_those_who_read_it(tmp_path):
    target = tmp_path / "key"
    for name in ("first", "second"):
        with atomic_folder(target) as temporary:
            (temporary / name).write_text(name)
    assert visible(target) == {"first"}
    assert visible(tmp_path) == {"key"}


def test_error_leaves_the_old_folder(tmp_path):
    target = tmp_path / "key"
    target.mkdir()
    (target / "old").touch()

    def fail():
        with atomic_folder(target) as temporary:
            (temporary / "new").touch()
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert visible(target) == {"old"}
    assert list(tmp_path.iterdir()) == [target]


def test_killed_while_filling_a_folder(tmp_path):
    kill_while_writing("atomic_folder", tmp_path / "key", "(temporary / 'a').write_text('half')")
    assert visible(tmp_path) == set()


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o755), (0o027, 0o750)])
def test_permissions_of_a_folder_obey_the_umask(tmp_path, umask, mask, mode):
    umask(mask)
    with atomic_folder(tmp_path / "key"):
        pass
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == mode


# --- What a killed run leaves ---


def left(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.startswith(".writing-"))


@pytest.mark.parametrize("writer", ["atomic_path", "atomic_folder"])
def test_the_next_to_write_there_removes_what_a_killed_one_was_writing(
    tmp_path, monkeypatch, writer
):
    for _ in range(2):
        name = "temporary" if writer == "atomic_path" else "(temporary / 'a')"
        kill_while_writing(writer, tmp_path / "target", f"{name}.write_text('half')")
    assert len(left(tmp_path)) == 2
    monkeypatch.setattr(files, "_MADE_WITHIN_S", -1.0)
    files._sweep_dead.cache_clear()
    write_text(tmp_path / "b.txt", "new")
    assert left(tmp_path) == []


HOLD = KILLED.replace("os.kill(os.getpid(), signal.SIGKILL)", "print(flush=True); input()")


def test_what_is_being_written_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_MADE_WITHIN_S", -1.0)
    files._sweep_dead.cache_clear()
    write = "temporary.write_text('all')"
    script = HOLD.format(writer="atomic_path", target=str(tmp_path / "a.txt"), write=write)
    words = [sys.executable, "-c", script]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        write_text(tmp_path / "b.txt", "new")
        assert len(left(tmp_path)) == 1
        process.communicate(b"\n")
    assert (tmp_path / "a.txt").read_text() == "all"
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "content", "host", "age_s", "stays"),
    [
        (".writing-1-abcdefgh", "file.nii.gz", "", 10, False),
        (".writing-1-abcdefgh", ".tmpabcdef", "", 10, False),
        (".writing-1-abcdefgh", "file.nii.gz", "elsewhere", 10, True),
        (".writing-1-abcdefgh", "file.nii.gz", "elsewhere", 10**5, False),
        (".writing-1-abcdefgh", "notes.txt", "", 10**5, True),
        (".writing-1-abcdefgh", "file.nii.gz", "", 0, True),
        (".writing-abcdefgh", "file.nii.gz", "", 10, True),
        (".writing-abcdefgh", "file.nii.gz", "", 10**5, False),
        (".writing-notes", "file.nii.gz", "", 10**5, True),
    ],
)
def test_only_what_nobody_holds_is_removed(tmp_path, name, content, host, age_s, stays):
    folder = tmp_path / name
    folder.mkdir()
    (folder / content).write_text("half")
    if host:
        (folder / "lock").write_text(host)
    then = time.time() - age_s
    for path in (*folder.iterdir(), folder):
        os.utime(path, (then, then))
    files._sweep_dead.cache_clear()
    write_text(tmp_path / "b.txt", "new")
    assert folder.exists() is stays


# --- Names by content ---


def test_hash_is_that_of_the_contents_in_order(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"x" * (2**20 + 3))
    second.write_bytes(b"y")
    assert sha256_of(first, second) == hashlib.sha256(b"x" * (2**20 + 3) + b"y").hexdigest()
    assert sha256_of(first, second) != sha256_of(second, first)


def test_hash_of_nothing():
    # FIPS 180-4, empty message.
    assert sha256_of() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


# --- link_or_copy ---


@pytest.mark.parametrize("can_link", [True, False])
def test_a_linked_or_copied_file_has_the_content_and_outlives_the_first(
    tmp_path, monkeypatch, can_link
):
    def refuse(*_):
        raise OSError("no links here")

    if not can_link:
        monkeypatch.setattr(os, "link", refuse)
    source, target = tmp_path / "a.bin", tmp_path / "new" / "b.bin"
    source.write_bytes(b"first")
    for _ in range(2):
        link_or_copy(source, target)
    assert target.read_bytes() == b"first"
    assert (source.stat().st_ino == target.stat().st_ino) is can_link
    # As every file is written here: replaced, not written into.
    write_text(source, "second")
    assert target.read_bytes() == b"first"
    link_or_copy(source, target)
    assert target.read_bytes() == b"second"
    assert visible(target.parent) == {"b.bin"}
