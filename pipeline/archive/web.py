"""An archive over DICOMweb: QIDO-RS to search, WADO-RS to retrieve, STOW-RS to store.

Nothing of the environment is used: no proxy, no ~/.netrc, no other certificates; and no redirect is
followed, so that bytes go to the named address only.

Source: DICOM PS3.18, 10.4 (retrieve), 10.5 (store), 10.6 (search).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import requests
from dicomweb_client.api import DICOMwebClient
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.datadict import keyword_for_tag
from pydicom.errors import InvalidDicomError

from pipeline.archive.address import WebAddress
from pipeline.archive.credentials import Credentials
from pipeline.archive.transport import (
    SERIES_FIELDS,
    Attributes,
    HiccupError,
    InstanceKey,
    Landing,
    SeriesKey,
    TransferError,
    checked_uid,
)
from pipeline.archive.whole import pixels_sha256
from pipeline.errors import ArchiveError

PAGE = 500
"""Results to ask for at a time: some archives send no more than 1000."""

TIMEOUT_S = (10.0, 120.0)
"""To connect, and between two pieces of an answer."""

_AS_STORED = (("application/dicom", "*"),)
_BUSY = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)


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
        self._session = _Session()
        self._session.trust_env = False
        self._session.max_redirects = 0
        if ca is not None:
            self._session.verify = str(ca)
        if credentials is not None:
            self._session.auth = (
                _Bearer(credentials.secret)
                if credentials.is_token
                else (credentials.user, credentials.secret)
            )
        # Old studies have UIDs that are not quite valid; `checked_uid` sees that they are safe.
        self._client = DICOMwebClient(
            address.url, session=self._session, permissive_uid=True, timeout=TIMEOUT_S
        )
        self._client.set_http_retry_params(retry=False)

    def check(self) -> None:
        """Make sure that it answers."""
        with self._explained():
            self._client.search_for_studies(limit=1)

    def find_studies(self, filters: Attributes) -> list[Attributes]:
        """Return the studies that match, with the attributes asked for."""
        return self._find("StudyInstanceUID", filters, (), self._client.search_for_studies)

    def find_series(self, study_uid: str, filters: Attributes) -> list[Attributes]:
        """Return the series of a study that match."""

        def search(**how: object) -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = self._client.search_for_series(study_uid, **how)
            return found

        return self._find("SeriesInstanceUID", filters, SERIES_FIELDS, search)

    def find_instances(self, series: SeriesKey) -> frozenset[str]:
        """Return the SOP Instance UIDs of a series."""
        found = self._find("SOPInstanceUID", {}, (), self._search_instances(series))
        return frozenset(attributes["SOPInstanceUID"] for attributes in found)

    def has(self, instance: InstanceKey) -> bool:
        """Say whether an instance is there."""
        series = SeriesKey(instance.study_uid, instance.series_uid)
        search = self._search_instances(series)
        filters = {"SOPInstanceUID": instance.instance_uid}
        found = self._find("SOPInstanceUID", filters, (), search)
        return any(answer["SOPInstanceUID"] == instance.instance_uid for answer in found)

    def pull_series(self, series: SeriesKey, landing: Landing) -> None:
        """Retrieve all instances of a series, one at a time in memory, compressed as stored."""
        with self._explained():
            for dataset in self._client.iter_series(
                series.study_uid, series.series_uid, media_types=_AS_STORED
            ):
                _write(dataset, landing)

    def pull_instance(self, instance: InstanceKey, landing: Landing) -> None:
        """Retrieve one instance."""
        with self._explained():
            _write(self._retrieve(instance), landing)

    def push(self, instance: InstanceKey, path: Path) -> None:
        """Store the instance of a DICOM file.

        Raises:
            TransferError: If the archive refuses it, with its code.
        """
        with self._explained():
            answer = self._client.store_instances([dcmread(path)], instance.study_uid)
        failed = answer.get("FailedSOPSequence")
        if failed:
            code = failed[0].get("FailureReason", 0)
            found = f"it does not store what was pushed (code 0x{code:04X})"
            raise TransferError(self.name, found, "Ask who runs it whether it takes DICOM SEG.")

    def stored_pixels(self, instance: InstanceKey) -> str | None:
        """Return the hash of the pixels that were stored."""
        with self._explained():
            return pixels_sha256(self._retrieve(instance))

    def close(self) -> None:
        """Close connections."""
        self._session.close()

    def _retrieve(self, instance: InstanceKey) -> Dataset:
        dataset: Dataset = self._client.retrieve_instance(
            instance.study_uid, instance.series_uid, instance.instance_uid, media_types=_AS_STORED
        )
        return dataset

    def _search_instances(self, series: SeriesKey) -> Callable[..., list[dict[str, Any]]]:
        def search(**how: object) -> list[dict[str, Any]]:
            try:
                found: list[dict[str, Any]] = self._client.search_for_instances(
                    series.study_uid, series.series_uid, **how
                )
            except requests.HTTPError as error:
                # Some archives answer so for a series that they do not have.
                if _status_of(error) == HTTPStatus.NOT_FOUND:
                    return []
                raise
            return found

        return search

    def _find(
        self,
        uid: str,
        filters: Attributes,
        fields: Sequence[str],
        search: Callable[..., list[dict[str, Any]]],
    ) -> list[Attributes]:
        """Return all pages of a search, each result once.

        An archive that ignores `offset` sends the first page for ever, so a page without anything
        new is the last.
        """
        wanted = [*filters, *fields] or None
        sent = {keyword: _sendable(value) for keyword, value in filters.items()}
        found: dict[str, Attributes] = {}
        while True:
            with self._explained():
                page = [
                    _attributes(answer)
                    for answer in search(
                        search_filters=sent, fields=wanted, limit=PAGE, offset=len(found)
                    )
                ]
                new = {checked_uid(answer[uid], self.name): answer for answer in page}
            before = len(found)
            found |= new
            if len(page) < PAGE or len(found) == before:
                return list(found.values())

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what requests raises, whose texts hold addresses with UIDs, into our errors."""
        try:
            yield
        except requests.HTTPError as error:
            raise self._error_of(_status_of(error)) from None
        except requests.exceptions.SSLError:
            remedy = "Give the certificates of its authority with --ca, as a PEM file."
            found = "its certificate cannot be verified"
            raise ArchiveError(self.name, found, remedy) from None
        except requests.TooManyRedirects:
            remedy = "Name the address where the archive really is."
            raise ArchiveError(self.name, "it points elsewhere", remedy) from None
        except requests.Timeout:
            raise HiccupError(self.name, "it does not answer in time", "Try again.") from None
        except (requests.exceptions.ChunkedEncodingError, requests.ConnectionError):
            raise HiccupError(self.name, "no connection, or a broken one", "Try again.") from None
        except (InvalidDicomError, EOFError):
            raise HiccupError(self.name, "it sent no DICOM instance", "Try again.") from None
        except (requests.RequestException, KeyError, ValueError, TypeError):
            remedy = "Check the path: it often ends in /dicom-web, /dicomweb or /rs."
            raise TransferError(self.name, "it does not answer in DICOMweb", remedy) from None

    def _error_of(self, status: int) -> ArchiveError:
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            remedy = "Give valid ones for what you want to do, in a file, with --credentials."
            return ArchiveError(self.name, f"it refuses the credentials (HTTP {status})", remedy)
        if status in _BUSY or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return HiccupError(self.name, f"it is in trouble (HTTP {status})", "Look at its log.")
        found = f"it refuses the request (HTTP {status})"
        return TransferError(self.name, found, "Check the address; ask who runs the archive.")


def _sendable(value: str) -> str:
    """Return a value to match as DICOMweb lists it, and with a wildcard for a space.

    Orthanc 1.10 finds nothing for a space, whether sent as + or %20. What comes back is compared
    with the value itself.

    Source: DICOM PS3.18, 8.3.4.1 (a list of UIDs has commas).
    """
    return value.replace("\\", ",").replace(" ", "?")


def _status_of(error: requests.HTTPError) -> int:
    return 0 if error.response is None else error.response.status_code


def _write(dataset: Dataset, landing: Landing) -> None:
    with landing.file() as file:
        dcmwrite(file, dataset)


def _attributes(answer: Mapping[str, Any]) -> dict[str, str]:
    """Return text by keyword from the DICOM JSON model.

    Source: DICOM PS3.18, F.2.
    """
    texts = {}
    for tag, element in answer.items():
        keyword = keyword_for_tag(int(tag, 16))
        values = [
            value.get("Alphabetic", "") if isinstance(value, dict) else str(value)
            for value in element.get("Value", ())
            if value is not None
        ]
        if keyword and values and element.get("vr") != "SQ":
            texts[keyword] = "\\".join(values)
    return texts
