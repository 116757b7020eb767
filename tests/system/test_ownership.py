"""A person's file is never overwritten or removed, whatever takes its name."""

import hashlib
import logging
import stat
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.system.files import atomic_folder, link_or_copy, sweep, write_text
from pipeline.system.ownership import (
    REPLACED,
    WRITTEN,
    claim,
    is_changed,
    is_ours,
    make_folder,
    remove,
    set_aside,
)
from pipeline.system.private import PRIVATE, make_private_folder

THEIRS = "made by a person\n"


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "home"
    claim(folder)
    return folder


def kept(home):
    """Text of what was set aside, by its path below the folder."""
    found = {}
    for path in (home / REPLACED).rglob("*"):
        if path.is_file():
            name = str(Path(*path.relative_to(home / REPLACED).parts[1:]))
            found.setdefault(name, []).append(path.read_text())
    return found


def test_ours_is_replaced_and_nothing_is_kept(home):
    for text in ("first", "second", "third"):
        write_text(home / "deep" / "a.txt", text)
    assert (home / "deep" / "a.txt").read_text() == "third"
    assert is_ours(home / "deep" / "a.txt")
    assert kept(home) == {}


def test_only_what_was_recorded_can_be_changed(home):
    theirs, ours = home / "theirs.txt", home / "a.txt"
    theirs.write_text(THEIRS)
    write_text(ours, "ours")
    assert not any(map(is_changed, (theirs, ours, home / "nothing")))
    ours.write_text(THEIRS)
    assert is_changed(ours)
    ours.unlink()
    assert not is_changed(ours)


def test_a_record_is_the_hash_of_the_content(home):
    write_text(home / "deep" / "a.txt", "content")
    recorded = (home / WRITTEN / "deep" / "a.txt.sha256").read_text().split()
    assert recorded == [hashlib.sha256(b"content").hexdigest()]


@pytest.mark.parametrize("was_ours", [True, False])
def test_theirs_is_set_aside_before_it_is_replaced(home, was_ours, caplog):
    path = home / "deep" / "a.txt"
    if was_ours:
        write_text(path, "ours")
    path.parent.mkdir(exist_ok=True)
    path.write_text(THEIRS)
    assert not is_ours(path)
    with caplog.at_level(logging.INFO):
        write_text(path, "ours again")
    assert path.read_text() == "ours again"
    assert kept(home) == {"deep/a.txt": [THEIRS]}
    (line,) = caplog.messages
    assert str(path) in line
    assert REPLACED in line


def test_every_change_is_kept_though_all_fall_into_one_second(home):
    texts = [f"change {number}" for number in range(5)]
    for text in texts:
        (home / "a.txt").write_text(text)
        write_text(home / "a.txt", "ours")
    assert sorted(kept(home)["a.txt"]) == texts


def test_what_was_written_before_a_kill_is_ours(home):
    """A kill between record and rename leaves the older file under the newer record."""
    write_text(home / "a.txt", "first")
    older = (home / "a.txt").read_bytes()
    write_text(home / "a.txt", "second")
    (home / "a.txt").write_bytes(older)
    write_text(home / "a.txt", "third")
    assert kept(home) == {}


@pytest.mark.parametrize("damage", ["", "no hash at all", "0123"])
def test_under_a_damaged_record_all_is_theirs(home, damage):
    write_text(home / "a.txt", "ours")
    (home / WRITTEN / "a.txt.sha256").write_text(damage)
    write_text(home / "a.txt", "ours again")
    assert kept(home)["a.txt"] == ["ours"]
    assert kept(home)[f"{WRITTEN}/a.txt.sha256"] == [damage]
    assert is_ours(home / "a.txt")


def test_a_link_is_set_aside_and_not_followed(home, tmp_path):
    elsewhere = tmp_path / "elsewhere.txt"
    elsewhere.write_text(THEIRS)
    (home / "a.txt").symlink_to(elsewhere)
    (home / "b.txt").symlink_to(tmp_path / "nowhere")
    write_text(home / "a.txt", "ours")
    write_text(home / "b.txt", "ours")
    assert elsewhere.read_text() == THEIRS
    assert not (tmp_path / "nowhere").exists()
    links = [path for path in (home / REPLACED).rglob("*.txt") if path.is_symlink()]
    assert {path.name for path in links} == {"a.txt", "b.txt"}


def test_a_hard_link_keeps_its_content(home, tmp_path):
    given = tmp_path / "given.txt"
    given.write_text(THEIRS)
    link_or_copy(given, home / "a.txt")
    assert is_ours(home / "a.txt")
    write_text(home / "a.txt", "ours")
    assert given.read_text() == THEIRS


def test_a_folder_in_the_place_of_a_file_is_set_aside(home):
    (home / "a.txt").mkdir(parents=True)
    (home / "a.txt" / "notes.txt").write_text(THEIRS)
    write_text(home / "a.txt", "ours")
    assert (home / "a.txt").read_text() == "ours"
    assert kept(home) == {"a.txt/notes.txt": [THEIRS]}


@pytest.mark.parametrize("write", ["text", "folder", "make"])
def test_a_file_in_the_place_of_a_folder_is_set_aside(home, write):
    (home / "deep").write_text(THEIRS)
    if write == "text":
        write_text(home / "deep" / "er" / "a.txt", "ours")
    elif write == "folder":
        with atomic_folder(home / "deep" / "er"):
            pass
    else:
        make_folder(home / "deep" / "er")
    assert (home / "deep" / "er").is_dir()
    assert kept(home) == {"deep": [THEIRS]}


@pytest.mark.parametrize("blocked", ["home", f"home/{PRIVATE}"])
def test_a_file_in_the_place_of_the_private_folder_is_named(tmp_path, blocked):
    (tmp_path / blocked).parent.mkdir(exist_ok=True)
    (tmp_path / blocked).write_text(THEIRS)
    with pytest.raises(ConfigError, match=f"{blocked}: is a file"):
        claim(tmp_path / "home")
    assert (tmp_path / blocked).read_text() == THEIRS


def test_removing_takes_ours_and_keeps_theirs(home, tmp_path):
    for name in ("a.txt", "deep/b.txt", "deep/c.txt"):
        write_text(home / "out" / name, "ours")
    (home / "out" / "deep" / "b.txt").write_text(THEIRS)
    (home / "out" / "deep" / "new.txt").write_text(THEIRS)
    (home / "out" / "link").symlink_to(tmp_path)
    remove(home / "out")
    remove(home / "out")
    assert not (home / "out").exists()
    assert kept(home) == {"out/deep/b.txt": [THEIRS], "out/deep/new.txt": [THEIRS]}
    assert [path.is_symlink() for path in (home / REPLACED).rglob("link")] == [True]


def test_removing_what_cannot_be_there_is_fine(home):
    write_text(home / "a.txt", "ours")
    remove(home / "a.txt" / "below")
    remove(home / "none" / "below")
    assert (home / "a.txt").read_text() == "ours"


def test_without_a_record_above_files_are_replaced_and_removed_as_asked(tmp_path):
    write_text(tmp_path / "deep" / "a.txt", "first")
    write_text(tmp_path / "deep" / "a.txt", "second")
    assert not is_ours(tmp_path / "deep" / "a.txt")
    remove(tmp_path / "deep")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_within_one_that_records_is_not_claimed_again(home):
    claim(home / "deep")
    assert not (home / "deep" / PRIVATE).exists()


def test_what_is_ours_stays_so_when_a_folder_within_begins_to_record(home):
    write_text(home / "deep" / "a.txt", "first")
    make_private_folder(home / "deep")
    write_text(home / "deep" / "a.txt", "second")
    write_text(home / "deep" / "a.txt", "third")
    assert kept(home) == kept(home / "deep") == {}


def test_a_folder_that_moves_takes_its_record_along(home, tmp_path):
    write_text(home / "a.txt", "ours")
    home.rename(tmp_path / "moved")
    assert is_ours(tmp_path / "moved" / "a.txt")


def test_what_is_set_aside_is_for_the_owner_only(home):
    (home / "a.txt").write_text(THEIRS)
    place = set_aside(home / "a.txt", home)
    assert place.read_text() == THEIRS
    assert stat.S_IMODE((home / PRIVATE).stat().st_mode) == 0o700


# --- What a killed run leaves ---


def test_a_sweep_removes_what_was_being_written_and_nothing_else(home):
    write_text(home / "a.txt", "ours")
    make_folder(home / "deep")
    half = [home / ".writing-ab_cd123", home / "deep" / ".writing-12345678"]
    theirs = [
        *(home / ".writing-notes", home / ".writing-abcdefgh"),
        *(home / "deep" / ".writing-abcdefgh", home / "other" / ".writing-abcdefgh"),
    ]
    for folder, name in [(each, "file.nii.gz") for each in half] + [(t, "notes") for t in theirs]:
        folder.mkdir(parents=True)
        (folder / name).write_text(THEIRS)
    (home / ".writing-12345678").write_text(THEIRS)
    keys, witness = home / PRIVATE / "keys-abcdefgh", home / PRIVATE / f"trivox-{'0' * 32}"
    keys.mkdir()
    (keys / "key.pem").touch()
    witness.touch()
    (home / PRIVATE / "keys-12345678").mkdir()
    (home / PRIVATE / "keys-12345678" / "mine.pem").write_text(THEIRS)
    sweep(home)
    assert not keys.exists()
    assert not witness.exists()
    assert (home / PRIVATE / "keys-12345678" / "mine.pem").read_text() == THEIRS
    assert not any(folder.exists() for folder in half)
    assert all((folder / "notes").read_text() == THEIRS for folder in theirs)
    assert (home / ".writing-12345678").read_text() == THEIRS
    assert (home / "a.txt").read_text() == "ours"
