import hashlib
import json
import os

import pytest

import pipeline.system.hashes
from pipeline.errors import ModelError
from pipeline.system.hashes import (
    TABLE,
    check_whole,
    damaged_in,
    link_noted,
    note_all,
    state_of,
    write_noted,
)

DAMAGES = {
    "bit": lambda content: bytes([content[0] ^ 1]) + content[1:],
    "last bit": lambda content: content[:-1] + bytes([content[-1] ^ 128]),
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "longer": lambda content: content + b"\n",
    "text": lambda content: b"once upon a time",
}


@pytest.fixture
def path(tmp_path):
    write_noted(tmp_path / "new" / "a.json", '{"a": 1}\n')
    return tmp_path / "new" / "a.json"


def test_a_file_that_was_written_is_whole(path):
    assert path.read_text() == '{"a": 1}\n'
    assert state_of(path) == "whole"
    check_whole(path, ModelError, "")


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damage_is_told_by_name_with_the_remedy(path, damage):
    path.write_bytes(damage(path.read_bytes()))
    assert state_of(path) == "damaged"
    with pytest.raises(ModelError, match=r"a\.json: the file is damaged.*hash.*Do this\."):
        check_whole(path, ModelError, "Do this.")


def test_a_file_that_is_gone_is_told(path):
    path.unlink()
    with pytest.raises(ModelError, match=r"a\.json: the file is missing. Do this\."):
        check_whole(path, ModelError, "Do this.")


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_table_is_told_and_its_remedy_works(path, damage):
    table = path.with_name(TABLE)
    whole = table.read_bytes()
    table.write_bytes(damage(whole))
    if DAMAGES["longer"] is not damage:  # A line more changes nothing of what it says.
        with pytest.raises(ModelError, match=r"hashes\.json: the table.*damaged.*remove it"):
            check_whole(path, ModelError, "")
        table.unlink()
    check_whole(path, ModelError, "")


def test_a_digit_changed_in_the_table_is_noticed(path):
    table = path.with_name(TABLE)
    text = table.read_text()
    place = text.index('"a.json"') + 20
    table.write_text(text[:place] + ("0" if text[place] != "0" else "1") + text[place + 1 :])
    assert state_of(path) == "damaged"


def test_what_no_table_names_is_unknown(path):
    other = path.with_name("b.json")
    assert state_of(other) == "unknown"
    check_whole(other, ModelError, "")
    other.write_text("b")
    note_all(path.parent)
    assert state_of(other) == "whole"


def test_killed_between_table_and_file_a_file_is_still_its_own(path, monkeypatch):
    def killed_after(folder, found):
        enter(folder, found)
        raise KeyboardInterrupt

    old, enter = path.read_bytes(), pipeline.system.hashes._enter
    monkeypatch.setattr(pipeline.system.hashes, "_enter", killed_after)
    for number in range(2):
        with pytest.raises(KeyboardInterrupt):
            write_noted(path, f"new {number}")
        assert path.read_bytes() == old
        assert state_of(path) == "whole"
    monkeypatch.undo()
    write_noted(path, "new")
    assert state_of(path) == "whole"


def test_a_link_is_noted(path, tmp_path):
    link_noted(path, tmp_path / "other" / "a.json")
    assert state_of(tmp_path / "other" / "a.json") == "whole"


def signed(files):
    """Return a table that fits its own hash, as whoever makes one up can write it."""
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    return json.dumps({"files": files, "sha256": digest})


@pytest.mark.parametrize(
    "files", [[], {"a.json": 1}, {"a.json": [1]}, {"../b": ["0" * 64]}, {"a.json": "0" * 64}, None]
)
def test_a_made_up_table_is_damaged(path, files):
    path.with_name(TABLE).write_text(signed(files))
    assert state_of(path) == "damaged"
    assert damaged_in(path.parent) == [path.with_name(TABLE)]


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "dangling"])
def test_a_table_that_is_no_ordinary_file_is_damaged_at_once(path, kind):
    table = path.with_name(TABLE)
    table.unlink()
    if kind == "pipe":
        os.mkfifo(table)
    elif kind == "folder":
        table.mkdir()
    else:
        table.symlink_to("/dev/zero" if kind == "device" else "nowhere")
    with pytest.raises(ModelError, match=r"hashes\.json: the table of hashes is damaged"):
        check_whole(path, ModelError, "")


def test_a_table_that_may_not_be_read_is_not_called_damaged(path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    write_noted(path, "text")
    monkeypatch.setattr("pipeline.system.text.open_ordinary", refuse)
    with pytest.raises(PermissionError):
        check_whole(path, ModelError, "Copy it.")


def test_a_hash_that_is_known_is_not_computed_again(path):
    assert state_of(path, hashlib.sha256(path.read_bytes()).hexdigest()) == "whole"
    assert state_of(path, "0" * 64) == "damaged"
    with pytest.raises(ModelError, match="the file is damaged"):
        check_whole(path, ModelError, "", sha256="0" * 64)
