import io
import threading
import time
from contextlib import contextmanager

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from pipeline.pacs import web_session
from pipeline.pacs.web_session import (
    CutError,
    NonsenseError,
    SlowError,
    kind_of,
    read_list,
    save_instances,
    within,
)

MULTIPART = "multipart/related; type=application/dicom; boundary=b"


class Landing:
    """Keeps what comes; what breaks off is kept apart."""

    def __init__(self):
        self.files, self.broken = [], []

    @contextmanager
    def file(self):
        file = io.BytesIO()
        try:
            yield file
        except BaseException:
            self.broken.append(file.getvalue())
            raise
        self.files.append(file.getvalue())


class Raw:
    """A body that comes in pieces of some size."""

    def __init__(self, body, size):
        self.body, self.size = io.BytesIO(body), size

    def read1(self, most, decode_content):
        return self.body.read(min(most, self.size))


def response_of(body, kind, size=1 << 16):
    response = requests.Response()
    response.status_code, response.raw = 200, Raw(body, size)
    response.headers["Content-Type"] = kind
    return response


@pytest.fixture(autouse=True, scope="module")
def _at_once():
    """Without a thread for each piece."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(web_session, "within", lambda seconds, ask: ask())
        yield


def body_of(parts, end=b"--b--\r\n"):
    return b"".join(b"--b\r\nContent-Type: x/y\r\n\r\n" + part + b"\r\n" for part in parts) + end


PARTS = st.lists(
    st.lists(st.sampled_from([b"\r\n", b"--", b"--b", b"-", b"x", b"\0"])).map(b"".join), max_size=4
).filter(lambda parts: not any(b"\r\n--b" in b"\r\n" + part for part in parts))


@given(
    parts=PARTS, size=st.integers(1, 40), before=st.sampled_from([b"", b"\r\n", b"preamble\r\n"])
)
def test_parts_are_told_apart_however_they_come(parts, size, before):
    landing = Landing()
    save_instances(response_of(before + body_of(parts), MULTIPART, size), landing)
    assert landing.files == parts


@given(parts=PARTS, data=st.data())
def test_an_answer_that_ends_anywhere_before_its_end_is_cut(parts, data):
    """The two dashes of the closing boundary are its end; what follows says nothing."""
    whole = body_of(parts)
    size = data.draw(st.integers(0, len(whole) - len(b"\r\n") - 1))
    landing = Landing()
    with pytest.raises(CutError, match="ends early, after"):
        save_instances(response_of(whole[:size], MULTIPART), landing)
    assert landing.files == parts[: len(landing.files)]


def test_a_single_instance_may_come_without_parts():
    landing = Landing()
    for kind in ("application/dicom", "multipart/related"):
        save_instances(response_of(b"DICM", kind), landing)
    assert landing.files == [b"DICM"] * 2


@pytest.mark.parametrize("kind", ["text/html", "image/jpeg", ""])
def test_what_holds_no_instances_is_named(kind):
    with pytest.raises(NonsenseError, match="instead of DICOM"):
        save_instances(response_of(b"x", kind), Landing())


@pytest.mark.parametrize("kind", [MULTIPART, "application/dicom"])
def test_an_instance_without_an_end_is_not_taken(kind, monkeypatch):
    monkeypatch.setattr(web_session, "MAX_INSTANCE_BYTES", 100)
    landing = Landing()
    with pytest.raises(NonsenseError, match="an instance of more than"):
        save_instances(response_of(body_of([b"x" * 1000]), kind, 10), landing)
    assert len(landing.broken[0]) <= 100
    with pytest.raises(NonsenseError, match="a part without content"):
        save_instances(response_of(b"--b\r\n" + b"x" * (1 << 17), MULTIPART), Landing())


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        ("Text/HTML; charset=utf-8", "text/html"),
        ("", "no content type"),
        ("\x1b[31m/x", "an unknown content type"),
        ("a/" + "b" * 99, "an unknown content type"),
    ],
)
def test_kinds_are_shown_only_if_they_are_such(kind, shown):
    assert kind_of(response_of(b"", kind)) == shown


def test_lists_are_lists_of_objects():
    assert read_list(response_of(b"", "")) == []
    assert read_list(response_of(b"[]", "application/dicom+json")) == []
    assert read_list(response_of(b'{"a": 1}', "application/json")) == [{"a": 1}]
    assert read_list(response_of(b"[]", "text/plain")) == []
    with pytest.raises(NonsenseError, match="text/html instead of DICOM JSON"):
        read_list(response_of(b"<html>", "text/html"))
    for strange in (b"[1]", b'"x"', b"null"):
        with pytest.raises(NonsenseError, match="lists no results"):
            read_list(response_of(strange, "application/json"))


def test_who_does_not_answer_is_left_behind():
    ended = threading.Event()
    began = time.monotonic()
    with pytest.raises(SlowError):
        within(0.05, ended.wait)
    assert time.monotonic() - began < 2
    ended.set()
    assert within(5, lambda: 7) == 7
    with pytest.raises(ValueError, match="mine"):
        within(5, lambda: (_ for _ in ()).throw(ValueError("mine")))
