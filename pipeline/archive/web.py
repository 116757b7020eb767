"""An archive over DICOMweb: QIDO-RS to search, WADO-RS to retrieve, STOW-RS to store.

Source: DICOM PS3.18, 10.4 (retrieve), 10.5 (store), 10.6 (search).
"""

from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

import requests
from dicomweb_client.api import DICOMwebClient
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.datadict import keyword_for_tag

from pipeline.archive.address import WebAddress
from pipeline.archive.credentials import Credentials
from pipeline.archive.transport import (
    SERIES_FIELDS,
    Attributes,
    InstanceKey,
    Landing,
    SeriesKey,
    TransferError,
    checked_uid,
)
from pipeline.archive.web_session import explained, open_session, status_of
from pipeline.archive.whole import pixels_sha256

PAGE = 500
"""Results to ask for at a time: some archives send no more than 1000."""

TIMEOUT_S = (10.0, 120.0)
"""To connect, and between two pieces of an answer."""

_AS_STORED = (("application/dicom", "*"),)


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
        self._session = open_session(credentials, ca)
        # Old studies have UIDs that are not quite valid; `checked_uid` sees that they are safe.
        self._client = DICOMwebClient(
            address.url, session=self._session, permissive_uid=True, timeout=TIMEOUT_S
        )
        self._client.set_http_retry_params(retry=False)

    def check(self) -> None:
        """Make sure that it answers."""
        with explained(self.name):
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
        with explained(self.name):
            for dataset in self._client.iter_series(
                series.study_uid, series.series_uid, media_types=_AS_STORED
            ):
                _write(dataset, landing)

    def pull_instance(self, instance: InstanceKey, landing: Landing) -> None:
        """Retrieve one instance."""
        with explained(self.name):
            _write(self._retrieve(instance), landing)

    def push(self, instance: InstanceKey, path: Path) -> None:
        """Store the instance of a DICOM file.

        Raises:
            TransferError: If the archive refuses it, with its code.
        """
        with explained(self.name):
            answer = self._client.store_instances([dcmread(path)], instance.study_uid)
        failed = answer.get("FailedSOPSequence")
        if failed:
            code = failed[0].get("FailureReason", 0)
            found = f"it does not store what was pushed (code 0x{code:04X})"
            raise TransferError(self.name, found, "Ask who runs it whether it takes DICOM SEG.")

    def stored_pixels(self, instance: InstanceKey) -> str | None:
        """Return the hash of the pixels that were stored."""
        with explained(self.name):
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
                if status_of(error) == HTTPStatus.NOT_FOUND:
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
            with explained(self.name):
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


def _sendable(value: str) -> str:
    """Return a value to match as DICOMweb lists it, and with a wildcard for a space.

    Orthanc 1.10 finds nothing for a space, whether sent as + or %20. What comes back is compared
    with the value itself.

    Source: DICOM PS3.18, 8.3.4.1 (a list of UIDs has commas).
    """
    return value.replace("\\", ",").replace(" ", "?")


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
