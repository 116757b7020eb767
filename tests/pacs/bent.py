"""A small DICOMweb archive on this machine whose answers can be bent, one by one."""

import gzip
import io
import json
import re
import socket
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import parse_qs, urlsplit

from pydicom import dcmread

JSON = "application/dicom+json"
MULTIPART = 'multipart/related; type="application/dicom"; boundary=mark'
QUESTIONS = ("studies", "series", "instances", "has", "pull series", "pull instance", "push")

Reply: TypeAlias = "Callable[[_Handler], None]"


class BentArchive:
    """Holds DICOM files and answers for them, in the way that `bend` says.

    `bend` is called with the kind of each question (one of `QUESTIONS`) and its path, and gives
    what answers it instead; None: it is answered well.
    """

    def __init__(self, paths: Iterable[Path] = ()) -> None:
        self.lock = threading.Lock()
        self.instances: dict[str, tuple[str, str, str, bytes]] = {}
        self.posted: Counter[str] = Counter()
        self.asked: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.bend: Callable[[str, str], Reply | None] = lambda question, path: None
        self.is_listed: Callable[[str], bool] = lambda uid: True
        self.listed_twice: set[str] = set()
        for path in paths:
            self.store(path.read_bytes())
        self.server = _Server(("127.0.0.1", 0), _Handler)
        self.server.archive = self  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self.server.server_port}/dicom-web"

    def store(self, content: bytes) -> str:
        """Take a file; return its UID."""
        d = dcmread(io.BytesIO(content), stop_before_pixels=True)
        uid = str(d.SOPInstanceUID)
        whose = str(d.StudyInstanceUID), str(d.SeriesInstanceUID), str(d.Modality)
        with self.lock:
            self.instances[uid] = (*whose, content)
        return uid

    def products(self) -> list[str]:
        """Return the studies of which there is a segmentation, one for each."""
        return sorted(study for study, _, kind, _ in self.instances.values() if kind == "SEG")


@contextmanager
def bent_archive(paths: Iterable[Path] = ()) -> Iterator[BentArchive]:
    """Give an archive that answers until the block ends."""
    archive = BentArchive(paths)
    thread = threading.Thread(target=archive.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield archive
    finally:
        archive.server.shutdown()
        archive.server.server_close()
        thread.join()


def reply(status: int, body: bytes = b"", kind: str = JSON, **headers: str) -> Reply:
    """Return an answer of a status."""
    return lambda handler: handler.answer(status, body, kind, headers)


def in_json(value: object) -> Reply:
    """Return an answer in JSON."""
    return reply(200, json.dumps(value).encode())


def html(handler: "_Handler") -> None:
    """Send a login page as if all were well."""
    handler.answer(200, b"<!DOCTYPE html><html><body>Please log in</body></html>", "text/html", {})


def reset(handler: "_Handler") -> None:
    """Break the connection."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    handler.connection.close()
    handler.close_connection = True


def cut(part: float, *, with_length: bool = False) -> Reply:
    """Return a good answer that ends early; without a length, only its end would tell."""

    def answer(handler: "_Handler") -> None:
        status, body, kind = handler.well()
        handler.begin(status, kind, {"Connection": "close"}, len(body) if with_length else None)
        handler.wfile.write(body[: int(part * len(body))])
        handler.close_connection = True

    return answer


def drip(seconds: float) -> Reply:
    """Return a good answer that comes a byte at a time."""

    def answer(handler: "_Handler") -> None:
        status, body, kind = handler.well()
        handler.begin(status, kind, {}, len(body))
        with suppress(OSError):
            for index in range(len(body)):
                handler.wfile.write(body[index : index + 1])
                handler.wfile.flush()
                time.sleep(seconds)

    return answer


def changed(change: Callable[[bytes], bytes]) -> Reply:
    """Return a good answer whose body is changed."""

    def answer(handler: "_Handler") -> None:
        status, body, kind = handler.well()
        handler.answer(status, change(body), kind, {})

    return answer


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of connections that those who were killed left."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    @property
    def archive(self) -> BentArchive:
        found: BentArchive = self.server.archive  # type: ignore[attr-defined]
        return found

    def begin(
        self, status: int, kind: str, headers: dict[str, str], length: int | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def answer(self, status: int, body: bytes, kind: str, headers: dict[str, str]) -> None:
        self.begin(status, kind, headers, len(body))
        self.wfile.write(body)

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query)
        self.words = [word for word in parts.path.split("/") if word][1:]
        kinds = {1: "studies", 3: "series", 5: "instances", 4: "pull series", 6: "pull instance"}
        question = kinds.get(len(self.words), "studies")
        if question == "instances" and "SOPInstanceUID" in self.query:
            question = "has"
        self.ask(question, parts.path)

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers["Content-Length"]))
        self.ask("push", urlsplit(self.path).path)

    def ask(self, question: str, path: str) -> None:
        self.question = question
        with self.archive.lock:
            self.archive.asked.append((question, path))
            self.archive.headers.append(dict(self.headers))
            bent = self.archive.bend(question, path)
        with suppress(ConnectionError):
            if bent is not None:
                bent(self)
            else:
                status, body, kind = self.well()
                self.answer(status, body, kind, {})

    def well(self) -> tuple[int, bytes, str]:
        """Return status, body and kind of a good answer; what is pushed is stored."""
        if self.question == "push":
            mark = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])
            assert mark is not None
            for part in self.body.split(b"--" + mark[1].encode())[1:-1]:
                self.archive.posted[self.archive.store(part.split(b"\r\n\r\n", 1)[1][:-2])] += 1
            return 200, b"{}", JSON
        with self.archive.lock:
            found = {
                uid: kept
                for uid, kept in self.archive.instances.items()
                if self.archive.is_listed(uid)
            }
        if self.question.startswith("pull"):
            wanted = [
                kept[3]
                for uid, kept in found.items()
                if kept[1] == self.words[3] and (len(self.words) == 4 or uid == self.words[5])
            ]
            return (200, multipart(wanted), MULTIPART) if wanted else (404, b"", JSON)
        rows = self._rows(found)[int(self.query.get("offset", ["0"])[0]) :]
        return 200, json.dumps(rows).encode(), JSON

    def _rows(self, found: dict[str, tuple[str, str, str, bytes]]) -> list[dict[str, Any]]:
        if self.question == "studies":
            studies = sorted({kept[0] for kept in found.values() if kept[2] == "CT"})
            return [ui("0020000D", uid) | ui("00080061", "CT", "CS") for uid in studies]
        study = self.words[1]
        if self.question == "series":
            number = Counter(kept[1:3] for kept in found.values() if kept[0] == study)
            return [
                ui("0020000D", study)
                | ui("0020000E", uid)
                | ui("00080060", kind, "CS")
                | ui("00201209", size, "IS")
                for (uid, kind), size in sorted(number.items())
                if kind == "CT"
            ]
        only = self.query.get("SOPInstanceUID", [""])[0]
        uids = [
            uid
            for uid, kept in found.items()
            if kept[:2] == (study, self.words[3]) and only in ("", uid)
        ]
        uids += [uid for uid in uids if uid in self.archive.listed_twice]
        return [ui("00080018", uid) for uid in uids]


def ui(tag: str, value: object, vr: str = "UI") -> dict[str, Any]:
    """Return an element in the DICOM JSON model."""
    return {tag: {"vr": vr, "Value": [value]}}


def multipart(parts: Iterable[bytes]) -> bytes:
    """Return a body of several instances."""
    head = b"--mark\r\nContent-Type: application/dicom\r\n\r\n"
    return b"".join(head + part + b"\r\n" for part in parts) + b"--mark--\r\n"


def _bomb(handler: _Handler) -> None:
    """Send some bytes that become 80 MB."""
    packed = zlib.compressobj(1, wbits=31)
    body = b"".join(packed.compress(b" " * (1 << 20)) for _ in range(80)) + packed.flush()
    handler.answer(200, body, JSON, {"Content-Encoding": "gzip"})


_DEEP = b"[" * 100_000 + b"]" * 100_000
_SILLY = b'[{"00080018": 7, "x": {"Value": 3}, "0020000E": {"vr": "UI", "Value": {"a": [1]}}}]'
STRANGE: dict[str, tuple[Reply, str]] = {
    "HTML": (html, "text/html instead of DICOM"),
    "no content type": (lambda handler: handler.answer(200, b"x", "", {}), "no content type"),
    "plain text": (reply(200, b"[]x", "text/plain"), "text/plain instead of DICOM"),
    "cut": (cut(0.5), "ends early, after [0-9]+ bytes"),
    "cut with a length": (cut(0.5, with_length=True), "ends early"),
    "reset": (reset, "broken"),
    "500": (reply(500), "HTTP 500"),
    "503 for ever": (reply(503, Retry_After="99999999999999999999"), "HTTP 503"),
    "429 in the past": (reply(429, Retry_After="-5"), "HTTP 429"),
    "429 at a date": (reply(429, Retry_After="Fri, 31 Dec 1999 23:59:59 GMT"), "HTTP 429"),
    "redirect": (reply(302, Location="http://127.0.0.1:9/"), "points elsewhere"),
    "not modified": (reply(304), "points elsewhere"),
    "400": (reply(400), "HTTP 400"),
    "403": (reply(403), "HTTP 403"),
    "404": (reply(404), "HTTP 404|lists no instance"),
    "501": (reply(501), "HTTP 501"),
}
"""Answers that are none, by kind, each with a pattern of what is said of it."""

IN_JSON: dict[str, tuple[Reply, str]] = {
    "deep": (reply(200, _DEEP), "damaged|lists no results"),
    "silly": (reply(200, _SILLY), "no UID|a UID that is none"),
    "a number": (reply(200, b"7"), "lists no results"),
    "a long number": (reply(200, b"[" + b"9" * 5000 + b"]"), "damaged"),
    "not UTF-8": (reply(200, b'[{"\xff"}]'), "damaged"),
    "compressed and damaged": (
        reply(200, gzip.compress(b"[]" * 99)[:20], Content_Encoding="gzip"),
        "ends early",
    ),
    "a bomb": (_bomb, "longer than [0-9]+ MB"),
    "a UID that is a path": (
        in_json([ui("0020000E", "../../x") | ui("00080018", "../../x")]),
        "a UID that is none",
    ),
}
"""The same of lists in JSON."""
