import shutil
import socket
import subprocess

import pytest

from pipeline.errors import ArchiveError
from pipeline.pacs import Credentials
from pipeline.pacs.transport import BusyError, HiccupError
from pipeline.pacs.web_session import seconds_to_wait
from tests.pacs.servers import in_json, serving
from tests.pacs.test_web import archive_at


def test_sends_passwords_and_tokens():
    seen = []

    def answer(handler):
        seen.append(handler.headers["Authorization"])
        return in_json([])

    with serving(answer) as url:
        archive_at(url, Credentials("me", "you")).check()
        archive_at(url, Credentials("", "abc")).check()
        archive_at(url).check()
    # Base64 of me:you.
    assert seen == ["Basic bWU6eW91", "Bearer abc", None]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_archive_may_be_asked_again(status):
    with serving(lambda _: in_json([], status)) as url, pytest.raises(HiccupError, match="HTTP"):
        archive_at(url).check()


def test_nobody_there_may_pass():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(HiccupError, match="no connection"):
        archive_at(f"http://127.0.0.1:{port}/x").check()


@pytest.mark.parametrize(
    "answer",
    [
        (200, {"Content-Type": "text/html"}, b"<html>Log in</html>"),
        (404, {}, b""),
        in_json([{"00080060": {"vr": "CS", "Value": ["CT"]}}]),
    ],
)
def test_what_is_no_dicomweb_is_said_so(answer):
    with (
        serving(lambda _: answer) as url,
        pytest.raises(ArchiveError, match=r"not answer in DICOMweb|HTTP 404"),
    ):
        archive_at(url).find_studies({})


def test_follows_nobody_elsewhere():
    asked = []
    with serving(lambda handler: asked.append(1) or in_json([])) as other:
        moved = (302, {"Location": f"{other}/studies"}, b"")
        with serving(lambda _: moved) as url, pytest.raises(ArchiveError, match="points elsewhere"):
            archive_at(url).check()
    assert asked == []


def test_asks_no_proxy(monkeypatch):
    with serving(lambda _: in_json([])) as url:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv("no_proxy", "")
        archive_at(url).check()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_certificates_are_verified(tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    options = ["-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        ["openssl", "req", "-x509", *options, *names, "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    with serving(lambda _: in_json([]), (certificate, key)) as url:
        with pytest.raises(ArchiveError, match=r"certificate cannot be verified.*--ca"):
            archive_at(url).check()
        archive_at(url, ca=certificate).check()


@pytest.mark.parametrize(
    ("text", "least_s", "most_s"),
    [
        ("17", 17, 17),
        ("", 0, 0),
        ("-5", 0, 0),
        ("soon", 0, 0),
        ("9" * 5000, 1e8, 1e9),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0, 0),
        ("Fri, 31 Dec 2199 23:59:59 GMT", 1e9, 1e11),
        ("Fri, 31 Dec 99999 23:59:59 GMT", 0, 0),
    ],
)
def test_what_a_busy_archive_asks_for_is_understood_or_nothing(text, least_s, most_s):
    assert least_s <= seconds_to_wait(text) <= most_s
    with (
        serving(lambda _: (503, {"Retry-After": text}, b"")) as url,
        pytest.raises(BusyError, match="HTTP 503") as raised,
    ):
        archive_at(url).check()
    assert least_s <= raised.value.wait_s <= most_s
