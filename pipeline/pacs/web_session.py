"""HTTP to a named archive and nowhere else; its answers are read no further than is reasonable.

Nothing is taken for whole that does not say so: a list ends where its JSON does, instances where
the closing boundary is. What makes no sense is told by its kind and by where it ended.

Source: DICOM PS3.18, 8.7 (media types), 8.6.1.2 (multipart payloads); RFC 2046, 5.1.1.

Nothing of the environment is used: no proxy, no ~/.netrc, no other certificates; and no redirect is
followed.
"""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import requests
from urllib3.exceptions import HTTPError, ReadTimeoutError

from pipeline.errors import ArchiveError
from pipeline.pacs.address import Credentials
from pipeline.pacs.transport import (
    MAX_INSTANCE_BYTES,
    BusyError,
    HiccupError,
    Landing,
    TransferError,
)

PIECE_BYTES = 1 << 16

MAX_LIST_BYTES = 64 << 20
"""Of a list in JSON: five hundred results have less than a megabyte."""

WAIT_S = 180.0
"""For the beginning of an answer, and for each next piece."""

SLOW_S, SLOW_BYTES = 120.0, 1 << 16
"""An answer that brings no more than so many bytes in so many seconds is given up."""

_MAX_HEADER = 1 << 16
_KIND = re.compile(r"[a-z]{1,20}/[a-z0-9.+-]{1,40}")
_BOUNDARY = re.compile(r'boundary="?([^";]{1,200})', re.IGNORECASE)

Answer = TypeVar("Answer")


class NonsenseError(Exception):
    """An answer is not what was asked for; the text says what came."""


class CutError(NonsenseError):
    """An answer ends before it says that it does."""


class SlowError(Exception):
    """An answer does not come, or drips."""


def within(seconds: float, ask: Callable[[], Answer]) -> Answer:
    """Return what a call returns, if it does so in time; else leave it behind.

    A socket's timeout is for each byte: a peer that drips would hold us for ever.

    Raises:
        SlowError: If it takes longer.
    """
    answers: list[Answer] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            answers.append(ask())
        except BaseException as error:  # noqa: BLE001 (raised again by the one who waits)
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True, name="answer")
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not answers:
        raise SlowError
    return answers[0]


def kind_of(response: requests.Response) -> str:
    """Return the media type of an answer, to be shown: no parameters, nothing strange."""
    kind = str(response.headers.get("Content-Type", "")).partition(";")[0].strip().lower()
    if not kind:
        return "no content type"
    return kind if _KIND.fullmatch(kind) else "an unknown content type"


def read_list(response: requests.Response) -> list[dict[str, Any]]:
    """Return the results of a search; none if the answer is empty.

    Raises:
        NonsenseError: If it is no list of objects in JSON.
        SlowError: If it does not come.
    """
    content = read_all(response, MAX_LIST_BYTES)
    if not content.strip():
        return []
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        # Some send good JSON as text/plain: the kind only explains what is none.
        strange = f"it sent {kind_of(response)} instead of DICOM JSON"
        damaged = f"its JSON is damaged or ends early, after {len(content)} bytes"
        raise NonsenseError(damaged if "json" in kind_of(response) else strange) from None
    # Some send a single result without a list around it.
    results = [found] if isinstance(found, dict) else found
    if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
        raise NonsenseError("it sent JSON that lists no results")
    return results


def read_all(response: requests.Response, most: int) -> bytes:
    """Return the body of an answer.

    Raises:
        NonsenseError: If it has more bytes than `most`, or ends early.
        SlowError: If it does not come.
    """
    content = bytearray()
    for piece in _pieces(response):
        content += piece
        if len(content) > most:
            raise NonsenseError(f"its answer is longer than {most >> 20} MB")
    return bytes(content)


def save_instances(response: requests.Response, landing: Landing) -> None:
    """Write each instance of an answer to a file of its own, as it was sent.

    Raises:
        NonsenseError: If it holds no instances, or ends before its closing boundary; those that
            were whole before that are in their files.
        SlowError: If it does not come.
    """
    kind = kind_of(response)
    boundary = _BOUNDARY.search(str(response.headers.get("Content-Type", "")))
    if kind == "application/dicom" or (kind == "multipart/related" and boundary is None):
        # Against the standard, but some send a single instance so.
        with landing.file() as file:
            for piece in _bounded(_pieces(response)):
                file.write(piece)
        return
    if kind != "multipart/related" or boundary is None:
        raise NonsenseError(f"it sent {kind} instead of DICOM")
    parts = _Parts(_pieces(response), b"--" + boundary[1].strip().encode())
    while parts.begin():
        with landing.file() as file:
            for piece in _bounded(parts.pieces()):
                file.write(piece)


class _Parts:
    """The parts of a multipart body, one after the other."""

    def __init__(self, pieces: Iterator[bytes], mark: bytes) -> None:
        self._source, self._mark = pieces, b"\r\n" + mark
        # The first boundary may be the first line.
        self._buffer, self._num_bytes = bytearray(b"\r\n"), 0
        for _ in self.pieces():
            pass

    def begin(self) -> bool:
        """Go to the content of the next part; False after the closing boundary."""
        while len(self._buffer) < 2:
            self._fill()
        if self._buffer.startswith(b"--"):
            return False
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > _MAX_HEADER:
                raise NonsenseError("it sent a part without content")
            self._fill()
        del self._buffer[: end + 4]
        return True

    def pieces(self) -> Iterator[bytes]:
        """Give the content up to the next boundary."""
        while (end := self._buffer.find(self._mark)) < 0:
            sure = len(self._buffer) - len(self._mark)
            if sure > 0:
                yield bytes(self._buffer[:sure])
                del self._buffer[:sure]
            self._fill()
        yield bytes(self._buffer[:end])
        del self._buffer[: end + len(self._mark)]

    def _fill(self) -> None:
        piece = next(self._source, b"")
        if not piece:
            raise CutError(f"its answer ends early, after {self._num_bytes} bytes")
        self._num_bytes += len(piece)
        self._buffer += piece


def _bounded(pieces: Iterator[bytes]) -> Iterator[bytes]:
    num_bytes = 0
    for piece in pieces:
        num_bytes += len(piece)
        if num_bytes > MAX_INSTANCE_BYTES:
            raise NonsenseError(f"it sent an instance of more than {MAX_INSTANCE_BYTES >> 30} GB")
        yield piece


def _pieces(response: requests.Response) -> Iterator[bytes]:
    """Give a body as it comes, as long as it comes fast enough."""
    began, num_bytes, total = time.monotonic(), 0, 0
    while True:
        try:
            piece: bytes = within(
                WAIT_S, lambda: response.raw.read1(PIECE_BYTES, decode_content=True)
            )
        except (ReadTimeoutError, SlowError):
            # Whoever still waits in the socket would hold its buffer, and so us when it is closed.
            with suppress(AttributeError, OSError, RuntimeError, ValueError):
                response.raw.shutdown()
            raise SlowError from None
        except HTTPError:
            # Cut before its length, or compressed and damaged.
            raise CutError(f"its answer ends early, after {total} bytes") from None
        if not piece:
            return
        num_bytes, total = num_bytes + len(piece), total + len(piece)
        now = time.monotonic()
        if now - began > SLOW_S:
            if num_bytes < SLOW_BYTES:
                raise SlowError
            began, num_bytes = now, 0
        yield piece


_BUSY = (
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.SERVICE_UNAVAILABLE,
)
_NEVER = (HTTPStatus.NOT_IMPLEMENTED, HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)


class NotFoundError(TransferError):
    """What was asked for is not there."""


def open_session(credentials: Credentials | None, ca: Path | None) -> requests.Session:
    """Return a session that sends `credentials` with every request.

    Args:
        credentials: None: nothing is sent.
        ca: Certificates to trust instead of the usual ones, as a PEM file.
    """
    session = _Session()
    session.trust_env = False
    if ca is not None:
        session.verify = str(ca)
    if credentials is not None:
        session.auth = (
            _Bearer(credentials.secret)
            if credentials.is_token
            else (credentials.user, credentials.secret)
        )
    return session


@contextmanager
def explained(name: str, *, has_answered: bool) -> Iterator[None]:
    """Turn what requests raises, whose texts hold addresses with UIDs, into our errors.

    Args:
        name: Of the archive.
        has_answered: Whether it has answered in DICOMweb before: then it is the right address, and
            what makes no sense now may pass.

    Raises:
        HiccupError: For what may pass.
        TransferError: If the answer makes no sense, and never did.
        ArchiveError: If every further question would end the same.
    """
    try:
        yield
    except requests.exceptions.SSLError:
        remedy = "Give the certificates of its authority with --ca, as a PEM file."
        found = "its certificate cannot be verified"
        raise ArchiveError(name, found, remedy) from None
    except (requests.Timeout, SlowError):
        found = "it does not answer in time, or drop by drop"
        raise HiccupError(name, found, "Try again.") from None
    except NonsenseError as error:
        if has_answered or isinstance(error, CutError):
            raise HiccupError(name, str(error), "Look at what lies between.") from None
        raise _no_dicomweb(name, str(error)) from None
    except (
        requests.exceptions.InvalidURL,
        requests.exceptions.MissingSchema,
        requests.exceptions.InvalidSchema,
    ):
        raise _no_dicomweb(name, "the address cannot be used") from None
    except requests.RequestException:
        raise HiccupError(name, "no connection, or a broken one", "Try again.") from None


def demand_success(response: requests.Response, name: str, *, has_answered: bool) -> None:
    """Raise what a status means, unless it is success.

    Args:
        response: The answer.
        name: Of the archive.
        has_answered: As for `explained`.

    Raises:
        BusyError: If the archive asks us to come back.
        HiccupError: For what else may pass.
        TransferError: If what was asked for is refused.
        ArchiveError: If it refuses the credentials, or is somewhere else.
    """
    status = response.status_code
    if status < HTTPStatus.MULTIPLE_CHOICES:
        return
    if status < HTTPStatus.BAD_REQUEST:
        # Never followed: who is there is not who was named, and would get the credentials.
        found, remedy = "it points elsewhere", "Name the address where the archive really is."
        kind = HiccupError if has_answered else ArchiveError
        raise kind(name, f"{found} (HTTP {status})", remedy)
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        remedy = "Give valid ones for what you want to do, in a file, with --credentials."
        raise ArchiveError(name, f"it refuses the credentials (HTTP {status})", remedy)
    if status in _BUSY:
        wait_s = seconds_to_wait(str(response.headers.get("Retry-After", "")))
        raise BusyError(name, f"it is in trouble (HTTP {status})", "Look at its log.", wait_s)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR and status not in _NEVER:
        raise HiccupError(name, f"it is in trouble (HTTP {status})", "Look at its log.")
    found = f"it refuses the request (HTTP {status})"
    refused = NotFoundError if status == HTTPStatus.NOT_FOUND else TransferError
    raise refused(name, found, "Check the address; ask who runs the archive.")


def seconds_to_wait(text: str) -> float:
    """Return what a Retry-After asks for; 0 if it is none, or in the past.

    Source: RFC 9110, 10.2.3.
    """
    text = text.strip()
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    try:
        when = parsedate_to_datetime(text)
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        return max(0.0, (when - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _no_dicomweb(name: str, found: str) -> TransferError:
    remedy = "Check the path: it often ends in /dicom-web, /dicomweb or /rs."
    return TransferError(name, f"it does not answer in DICOMweb: {found}", remedy)


class _Bearer(requests.auth.AuthBase):
    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class _Session(requests.Session):
    """Sends wildcards and commas as they are: not every archive sees one in %2A, as it is sent."""

    def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
        prepared = super().prepare_request(request)
        for code, character in (("%2A", "*"), ("%3F", "?"), ("%2C", ",")):
            prepared.url = (prepared.url or "").replace(code, character)
        return prepared
