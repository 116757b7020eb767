"""An archive over DICOMweb: QIDO-RS to search, WADO-RS to retrieve, STOW-RS to store.

Source: DICOM PS3.18, 10.4 (retrieve), 10.5 (store), 10.6 (search).
"""

import io
import json
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote_plus

import requests
from pydicom.datadict import keyword_for_tag

from pipeline.pacs.address import Credentials, WebAddress
from pipeline.pacs.instance import pixels_sha256, read_whole
from pipeline.pacs.transport import (
    MAX_ANSWERS,
    SERIES_FIELDS,
    Attributes,
    HiccupError,
    InstanceKey,
    Landing,
    SeriesKey,
    TransferError,
)
from pipeline.pacs.web_session import (
    WAIT_S,
    NonsenseError,
    NotFoundError,
    demand_success,
    explained,
    kind_of,
    open_session,
    read_all,
    read_list,
    save_instances,
    within,
)

PAGE = 500
"""Results to ask for at a time: some archives send no more than 1000."""

TIMEOUT_S = (10.0, 120.0)
"""To connect, and between two pieces of an answer."""

_JSON = "application/dicom+json, application/json"
_AS_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_MAX_REPORT_BYTES = 1 << 20
"""Of what an archive says of a file that it stored or did not."""

_FAILED, _WHY = "00081198", "00081197"
"""Tags of FailedSOPSequence and FailureReason."""

_CODE_IN_XML = re.compile(
    rb'tag="%s"[^>]*>\s*<Item(?:.{0,2000}?tag="%s"[^>]*>\s*<Value[^>]*>\s*(\d{1,5}))?'
    % (_FAILED.encode(), _WHY.encode()),
    re.DOTALL,
)


class WebArchive:
    """An archive over DICOMweb; one thread's.

    Args:
        address: The root of its services.
        credentials: Sent with every request; None: nothing.
        ca: Certificates to trust instead of the usual ones.
    """

    def __init__(
        self, address: WebAddress, credentials: Credentials | None, ca: Path | None
    ) -> None:
        self.name = str(address)
        self._url = address.url
        self._session = open_session(credentials, ca)
        self._has_answered = False

    def check(self) -> None:
        """Make sure that it answers."""
        self._search("studies", [("limit", "1")])

    def find_studies(self, filters: Attributes) -> list[Attributes]:
        """Return the studies that match, with the attributes asked for."""
        return self._find("StudyInstanceUID", "studies", filters)[0]

    def find_series(self, study_uid: str, filters: Attributes) -> list[Attributes]:
        """Return the series of a study that match."""
        path = f"studies/{study_uid}/series"
        return self._find("SeriesInstanceUID", path, filters, SERIES_FIELDS)[0]

    def find_instances(self, series: SeriesKey) -> list[str]:
        """Return the SOP Instance UIDs of a series, as they are listed: one may be twice."""
        return self._find_instances(series, {})

    def has(self, instance: InstanceKey) -> bool:
        """Say whether an instance is there."""
        series = SeriesKey(instance.study_uid, instance.series_uid)
        found = self._find_instances(series, {"SOPInstanceUID": instance.instance_uid})
        return instance.instance_uid in found

    def pull_series(self, series: SeriesKey, landing: Landing) -> None:
        """Retrieve all instances of a series, compressed as stored, one after the other."""
        self._pull(f"studies/{series.study_uid}/series/{series.series_uid}", landing)

    def pull_instance(self, instance: InstanceKey, landing: Landing) -> None:
        """Retrieve one instance."""
        self._pull(_path_of(instance), landing)

    def push(self, instance: InstanceKey, path: Path) -> None:
        """Store the instance of a DICOM file.

        Raises:
            TransferError: If the archive refuses it, with its code.
            HiccupError: If its answer does not tell: it may have it.
        """
        mark = secrets.token_hex(16)
        head = f"--{mark}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        body = b"".join((head, path.read_bytes(), f"\r\n--{mark}--\r\n".encode()))
        sent = {"Content-Type": f'multipart/related; type="application/dicom"; boundary={mark}'}
        with self._asked("POST", f"studies/{instance.study_uid}", sent, body) as response:
            refused = response.status_code == HTTPStatus.CONFLICT
            if not refused:
                demand_success(response, self.name, has_answered=True)
            code = _failure_code(response)
        if refused or code is not None:
            found = f"it does not store what was pushed (code 0x{code or 0:04X})"
            raise TransferError(self.name, found, "Ask who runs it whether it takes DICOM SEG.")

    def stored_pixels(self, instance: InstanceKey) -> str | None:
        """Return the hash of the pixels that were stored."""
        landing = _InMemory()
        self._pull(_path_of(instance), landing)
        dataset = read_whole(io.BytesIO(landing.files[0].getvalue())) if landing.files else None
        if dataset is None:
            raise HiccupError(self.name, "it sent no whole DICOM instance", "Try again.")
        return pixels_sha256(dataset)

    def close(self) -> None:
        """Close connections."""
        self._session.close()

    @contextmanager
    def _asked(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Iterator[requests.Response]:
        """Give an answer whose body is not read yet."""
        with explained(self.name, has_answered=self._has_answered):
            response = within(
                WAIT_S + len(body or b"") / 1000,
                lambda: self._session.request(
                    method,
                    f"{self._url}/{path}",
                    data=body,
                    headers={"Accept-Encoding": "identity", **headers},
                    timeout=TIMEOUT_S,
                    stream=True,
                    allow_redirects=False,
                ),
            )
            try:
                yield response
            finally:
                response.close()

    def _pull(self, path: str, landing: Landing) -> None:
        with self._asked("GET", path, {"Accept": _AS_STORED}) as response:
            demand_success(response, self.name, has_answered=self._has_answered)
            save_instances(response, landing)

    def _search(self, path: str, words: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        query = "&".join(f"{name}={quote_plus(value)}" for name, value in words)
        with self._asked("GET", f"{path}?{query}", {"Accept": _JSON}) as response:
            demand_success(response, self.name, has_answered=self._has_answered)
            found = read_list(response)
        self._has_answered = True
        return found

    def _find_instances(self, series: SeriesKey, filters: Attributes) -> list[str]:
        path = f"studies/{series.study_uid}/series/{series.series_uid}/instances"
        try:
            found, repeated = self._find("SOPInstanceUID", path, filters)
        except NotFoundError:
            # Some archives answer so for a series that they do not have.
            return []
        return [*(answer["SOPInstanceUID"] for answer in found), *repeated]

    def _find(
        self, uid: str, path: str, filters: Attributes, fields: Sequence[str] = ()
    ) -> tuple[list[Attributes], list[str]]:
        """Return all pages of a search, each result once, and the UIDs that came more than once.

        An archive that ignores `offset` sends the first page for ever, so a page without anything
        new is the last. A result without a UID has an empty one.
        """
        sent = [("includefield", keyword) for keyword in (*filters, *fields)]
        sent += [(keyword, _sendable(value)) for keyword, value in filters.items()]
        has_answered = self._has_answered
        found: dict[str, Attributes] = {}
        repeated: list[str] = []
        while True:
            at = [("limit", str(PAGE)), ("offset", str(len(found) + len(repeated)))]
            answers = self._search(path, [*at, *sent])
            page = [{uid: "", **_attributes(answer)} for answer in answers]
            if page and not any(answer[uid] for answer in page):
                with explained(self.name, has_answered=has_answered):
                    raise NonsenseError("its results have no UID")
            new = {answer[uid]: answer for answer in page}
            if not new.keys() - found.keys():
                return list(found.values()), repeated
            seen = set(found)
            for answer in page:
                if answer[uid] in seen:
                    repeated.append(answer[uid])
                seen.add(answer[uid])
            found |= new
            if len(page) < PAGE:
                return list(found.values()), repeated
            if len(found) > MAX_ANSWERS:
                found_many = f"it lists more than {MAX_ANSWERS} results"
                raise TransferError(self.name, found_many, "Ask for less with --query.")


class _InMemory:
    """Keeps instances in memory: what we pushed, which was there before."""

    def __init__(self) -> None:
        self.files: list[io.BytesIO] = []

    @contextmanager
    def file(self) -> Iterator[BinaryIO]:
        self.files.append(io.BytesIO())
        yield self.files[-1]


def _path_of(instance: InstanceKey) -> str:
    series = f"studies/{instance.study_uid}/series/{instance.series_uid}"
    return f"{series}/instances/{instance.instance_uid}"


def _sendable(value: str) -> str:
    """Return a value to match as DICOMweb lists it, and with a wildcard for a space.

    Orthanc 1.10 finds nothing for a space, whether sent as + or %20. What comes back is compared
    with the value itself.

    Source: DICOM PS3.18, 8.3.4.1 (a list of UIDs has commas).
    """
    return value.replace("\\", ",").replace(" ", "?")


def _failure_code(response: requests.Response) -> int | None:
    """Return why an archive did not store what was sent to it; None if it says no such thing.

    Raises:
        NonsenseError: If it is not the archive that answers.

    Source: DICOM PS3.18, 10.5.3, table 10.5.3-1 (in JSON or, from older archives, in XML).
    """
    report, kind = read_all(response, _MAX_REPORT_BYTES), kind_of(response)
    if not report.strip():
        return None
    if "json" not in kind:
        if "xml" not in kind or "html" in kind:
            raise NonsenseError(f"it sent {kind} instead of what became of the file")
        code = _CODE_IN_XML.search(report)
        return int(code[1] or 0) if code else None
    try:
        answer = json.loads(report)
        answer = answer[0] if isinstance(answer, list) else answer
        items = answer.get(_FAILED, {}).get("Value")
        return int(items[0][_WHY]["Value"][0]) if items else None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        if _FAILED.encode() in report:
            return 0
        raise NonsenseError(f"its JSON is damaged, after {len(report)} bytes") from None


def _attributes(answer: Mapping[str, Any]) -> dict[str, str]:
    """Return text by keyword from the DICOM JSON model; what is no element is left out.

    Source: DICOM PS3.18, F.2.
    """
    texts = {}
    for tag, element in answer.items():
        try:
            keyword = keyword_for_tag(int(tag, 16))
            values = [
                str(value.get("Alphabetic", "")) if isinstance(value, dict) else str(value)
                for value in element.get("Value") or ()
                if value is not None
            ]
            is_text = element.get("vr") != "SQ"
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            continue
        if keyword and values and is_text:
            texts[keyword] = "\\".join(values)
    return texts
