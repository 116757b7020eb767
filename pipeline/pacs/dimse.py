"""An archive over DIMSE: C-FIND to search, C-GET to retrieve, C-STORE to store.

Each operation is an association of its own, so that none is left open while a study is segmented.

Source: DICOM PS3.4, C.4 (query and retrieve), B.2 (storage); PS3.7, 9.3 and annex C (status).
"""

import time
from pathlib import Path

from pydicom import DataElement, Dataset, dcmread
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR
from pydicom.multival import MultiValue
from pydicom.tag import Tag
from pynetdicom import build_context, evt
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    Verification,
)

from pipeline.pacs.address import DimseAddress
from pipeline.pacs.association import (
    OUT_OF_RESOURCES,
    PLAIN,
    SUCCESS,
    Peer,
    image_contexts,
)
from pipeline.pacs.instance import UNREADABLE
from pipeline.pacs.transport import (
    MAX_ANSWERS,
    MAX_INSTANCE_BYTES,
    SERIES_FIELDS,
    Attributes,
    HiccupError,
    InstanceKey,
    Landing,
    SeriesKey,
    TransferError,
)

MAX_FIND_S = 600.0
"""For all results of one search."""

_UID_OF = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}
_PENDING = (0xFF00, 0xFF01)
_STORE_WARNINGS = (0xB000, 0xB006, 0xB007)


class DimseArchive:
    """An archive over DIMSE; one thread's.

    Args:
        address: Its application entity.
        calling_ae: What we call ourselves; archives let in those they know.
    """

    def __init__(self, address: DimseAddress, calling_ae: str) -> None:
        self.name = str(address)
        self._peer = Peer(address, calling_ae)

    def check(self) -> None:
        """Make sure that it answers."""
        with self._peer.associated([build_context(Verification)]) as association:
            self._peer.demand_success(association.send_c_echo().get("Status"))

    def find_studies(self, filters: Attributes) -> list[Attributes]:
        """Return the studies that match, with the attributes asked for."""
        return self._find("STUDY", {"StudyInstanceUID": "", **filters})

    def find_series(self, study_uid: str, filters: Attributes) -> list[Attributes]:
        """Return the series of a study that match."""
        fields = dict.fromkeys((*SERIES_FIELDS, "SeriesInstanceUID"), "")
        return self._find("SERIES", {**fields, **filters, "StudyInstanceUID": study_uid})

    def find_instances(self, series: SeriesKey) -> list[str]:
        """Return the SOP Instance UIDs of a series, as they are listed: one may be twice."""
        keys = _keys_of(InstanceKey(series.study_uid, series.series_uid, ""))
        return [answer["SOPInstanceUID"] for answer in self._answers("IMAGE", keys)]

    def has(self, instance: InstanceKey) -> bool:
        """Say whether an instance is there."""
        found = self._find("IMAGE", _keys_of(instance))
        return any(answer["SOPInstanceUID"] == instance.instance_uid for answer in found)

    def pull_series(self, series: SeriesKey, landing: Landing) -> None:
        """Retrieve all instances of a series, each compressed as it is stored if we know how."""
        keys = {"StudyInstanceUID": series.study_uid, "SeriesInstanceUID": series.series_uid}
        self._get("SERIES", keys, landing)

    def pull_instance(self, instance: InstanceKey, landing: Landing) -> None:
        """Retrieve one instance."""
        self._get("IMAGE", _keys_of(instance), landing)

    def push(self, instance: InstanceKey, path: Path) -> None:
        """Store the instance of a DICOM file.

        Raises:
            TransferError: If the archive refuses it, with its status.
        """
        meta = dcmread(path, stop_before_pixels=True).file_meta
        context = build_context(meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID)
        with self._peer.associated([context]) as association:
            status = association.send_c_store(path).get("Status")
        if status not in _STORE_WARNINGS:
            self._peer.demand_success(status)

    def stored_pixels(self, instance: InstanceKey) -> str | None:
        """Return None: C-STORE's success status must do."""
        return None

    def close(self) -> None:
        """There is nothing to let go of."""

    def _find(self, level: str, keys: Attributes) -> list[Attributes]:
        """Return each study, series or instance once."""
        uid = _UID_OF[level]
        return list({answer[uid]: answer for answer in self._answers(level, keys)}.values())

    def _answers(self, level: str, keys: Attributes) -> list[Attributes]:
        """Return all answers; one without a UID has an empty one."""
        found: list[Attributes] = []
        end = time.monotonic() + MAX_FIND_S
        context = build_context(StudyRootQueryRetrieveInformationModelFind, PLAIN)
        with self._peer.associated([context]) as association:
            responses = association.send_c_find(
                _identifier(level, keys), StudyRootQueryRetrieveInformationModelFind
            )
            for status, answer in responses:
                if status.get("Status") not in _PENDING:
                    self._peer.demand_success(status.get("Status"))
                elif answer is None:
                    association.abort()
                    raise HiccupError(self.name, "it sent a result that is none", "Try again.")
                else:
                    found.append({_UID_OF[level]: "", **_attributes(answer)})
                if len(found) > MAX_ANSWERS or time.monotonic() > end:
                    association.abort()
                    found_many = f"a search does not end: {len(found)} results so far"
                    raise TransferError(self.name, found_many, "Ask for less with --query.")
        return found

    def _get(self, level: str, keys: Attributes, landing: Landing) -> None:
        full: list[OSError] = []

        def store(event: evt.Event) -> int:
            try:
                with landing.file() as file:
                    file.write(event.encoded_dataset())
            except OSError as error:
                full.append(error)
                return OUT_OF_RESOURCES
            return SUCCESS

        model = StudyRootQueryRetrieveInformationModelGet
        contexts = [build_context(model, PLAIN), *image_contexts()]
        handlers = [(evt.EVT_C_STORE, store)]
        with self._peer.associated(contexts, handlers, MAX_INSTANCE_BYTES) as association:
            for status, _ in association.send_c_get(_identifier(level, keys), model):
                if full:
                    association.abort()
                    raise full[0]
                # Instances that did not come are asked for singly; the count says nothing more.
                if status.get("Status") not in (*_PENDING, 0xB000, SUCCESS):
                    self._peer.demand_success(status.get("Status"))


def _keys_of(instance: InstanceKey) -> dict[str, str]:
    return {
        "StudyInstanceUID": instance.study_uid,
        "SeriesInstanceUID": instance.series_uid,
        "SOPInstanceUID": instance.instance_uid,
    }


def _identifier(level: str, keys: Attributes) -> Dataset:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    identifier.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in keys.items():
        # Ranges and wildcards are no valid dates or codes, but they are valid here.
        vr = dictionary_VR(keyword)
        identifier.add(DataElement(Tag(keyword), vr, value, validation_mode=IGNORE))
    return identifier


def _attributes(answer: Dataset) -> dict[str, str]:
    """Return text by keyword; what cannot be read is left out."""
    texts = {}
    for tag in answer.keys():  # noqa: SIM118 (iterating converts)
        try:
            element = answer[tag]
            value = element.value
            several = value if isinstance(value, MultiValue) else [value]
            text = "\\".join(str(one) for one in several)
        except (*UNREADABLE, ValueError, TypeError, LookupError, AttributeError):
            continue
        if element.keyword and element.VR != "SQ" and value not in (None, ""):
            texts[element.keyword] = text
    return texts
