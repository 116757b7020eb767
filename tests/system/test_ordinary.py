"""Tests of opening what comes from outside."""

import os
import socket
from pathlib import Path

import pytest

from pipeline.system.text import check_ordinary, open_ordinary


def test_an_ordinary_file_and_a_link_to_one_are_opened(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        check_ordinary(tmp_path / name)
        with open_ordinary(tmp_path / name) as file:
            assert file.read() == b"content"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("pipe", "a pipe, no ordinary file"),
        ("device", "a device, no ordinary file"),
        ("folder", "a folder, no ordinary file"),
    ],
)
def test_anything_else_is_named_at_once(tmp_path, kind, words):
    path = tmp_path / "odd"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    for look in (check_ordinary, open_ordinary):
        with pytest.raises(OSError, match=words) as caught:
            look(path)
        assert caught.value.filename == str(path)


def test_a_socket_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("odd")
        with pytest.raises(OSError, match="a socket, no ordinary file"):
            check_ordinary(Path("odd"))
        with pytest.raises(OSError, match="odd"):
            open_ordinary(Path("odd"))
