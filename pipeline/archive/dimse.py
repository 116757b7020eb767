"""An archive over DIMSE: C-FIND to search, C-GET to retrieve, C-STORE to store.

Each operation is an association of its own, so that none is left open while a study is segmented.

Source: DICOM PS3.4, C.4 (query and retrieve), B.2 (storage); PS3.7, 9.3 and annex C (status).
"""

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydicom import DataElement, Dataset, dcmread
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.tag import Tag
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    Verification,
)

from pipeline.archive.address import DimseAddress
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
from pipeline.errors import ArchiveError

TIMEOUT_S = 60.0
"""To answer; an archive that fetches from tape may need it."""

CONNECT_TIMEOUT_S = 10.0

_IMAGES = (
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
    SecondaryCaptureImageStorage,
)
_PLAIN = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
_COMPRESSED = (
    DeflatedExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
_SUCCESS = 0x0000
_OUT_OF_RESOURCES = 0xA700
_PENDING = (0xFF00, 0xFF01)
_STORE_WARNINGS = (0xB000, 0xB006, 0xB007)
_TRANSIENT_REJECTION = 0x02


class DimseArchive:
    """An archive over DIMSE; one thread's.

    Args:
        address: Its application entity.
        calling_ae: What we call ourselves; archives let in those they know.
    """

    def __init__(self, address: DimseAddress, calling_ae: str) -> None:
        self.name = str(address)
        self._address, self._calling_ae = address, calling_ae

    def check(self) -> None:
        """Make sure that it answers."""
        with self._associated([build_context(Verification)]) as association:
            self._demand_success(association.send_c_echo().get("Status"))

    def find_studies(self, filters: Attributes) -> list[Attributes]:
        """Return the studies that match, with the attributes asked for."""
        return self._find("STUDY", {"StudyInstanceUID": "", **filters})

    def find_series(self, study_uid: str, filters: Attributes) -> list[Attributes]:
        """Return the series of a study that match."""
        fields = dict.fromkeys((*SERIES_FIELDS, "SeriesInstanceUID"), "")
        return self._find("SERIES", {**fields, **filters, "StudyInstanceUID": study_uid})

    def find_instances(self, series: SeriesKey) -> frozenset[str]:
        """Return the SOP Instance UIDs of a series."""
        keys = _keys_of(InstanceKey(series.study_uid, series.series_uid, ""))
        return frozenset(answer["SOPInstanceUID"] for answer in self._find("IMAGE", keys))

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
        with self._associated([context]) as association:
            status = association.send_c_store(path).get("Status")
        if status not in _STORE_WARNINGS:
            self._demand_success(status)

    def stored_pixels(self, instance: InstanceKey) -> str | None:
        """Return None: C-STORE's success status must do."""
        return None

    def close(self) -> None:
        """There is nothing to let go of."""

    def _find(self, level: str, keys: Attributes) -> list[Attributes]:
        found: dict[str, Attributes] = {}
        uid = {"STUDY": "Study", "SERIES": "Series", "IMAGE": "SOP"}[level] + "InstanceUID"
        context = build_context(StudyRootQueryRetrieveInformationModelFind, _PLAIN)
        with self._associated([context]) as association:
            responses = association.send_c_find(
                _identifier(level, keys), StudyRootQueryRetrieveInformationModelFind
            )
            for status, answer in responses:
                if status.get("Status") not in _PENDING:
                    self._demand_success(status.get("Status"))
                elif answer is not None:
                    attributes = {**_attributes(answer)}
                    checked_uid(attributes.get(uid, ""), self.name)
                    found[attributes[uid]] = attributes
        return list(found.values())

    def _get(self, level: str, keys: Attributes, landing: Landing) -> None:
        full: list[OSError] = []

        def store(event: evt.Event) -> int:
            try:
                with landing.file() as file:
                    file.write(event.encoded_dataset())
            except OSError as error:
                full.append(error)
                return _OUT_OF_RESOURCES
            return _SUCCESS

        model = StudyRootQueryRetrieveInformationModelGet
        contexts = [build_context(model, _PLAIN), *_image_contexts()]
        handlers = [(evt.EVT_C_STORE, store)]
        with self._associated(contexts, handlers) as association:
            for status, _ in association.send_c_get(_identifier(level, keys), model):
                if full:
                    association.abort()
                    raise full[0]
                # Instances that did not come are asked for singly; the count says nothing more.
                if status.get("Status") not in (*_PENDING, 0xB000, _SUCCESS):
                    self._demand_success(status.get("Status"))

    @contextmanager
    def _associated(
        self,
        contexts: Sequence[PresentationContext],
        handlers: Sequence[tuple[evt.EventType, object]] = (),
    ) -> Iterator[Association]:
        entity = AE(ae_title=self._calling_ae)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = TIMEOUT_S
        entity.connection_timeout = CONNECT_TIMEOUT_S
        association = entity.associate(
            self._address.host,
            self._address.port,
            contexts=list(contexts),
            ae_title=self._address.ae_title,
            ext_neg=[build_role(image, scp_role=True) for image in _IMAGES] if handlers else None,
            evt_handlers=[*handlers, (evt.EVT_CONN_OPEN, _send_at_once)],
        )
        if not association.is_established:
            raise self._not_established(association)
        try:
            yield association
        except (ValueError, InvalidDicomError):
            # pynetdicom: no accepted context for what is to be sent, or an answer that is none.
            remedy = "Ask who runs it whether it takes DICOM SEG, or use its DICOMweb address."
            raise TransferError(self.name, "it does not take this kind of object", remedy) from None
        except RuntimeError:
            raise HiccupError(self.name, "the association was aborted", "Try again.") from None
        finally:
            if association.is_established:
                association.release()

    def _not_established(self, association: Association) -> ArchiveError:
        if association.is_rejected:
            answer = association.acceptor.primitive
            if getattr(answer, "result", None) == _TRANSIENT_REJECTION:
                return HiccupError(self.name, "it is too busy for an association", "Try again.")
            remedy = (
                f"Check its AE title, and have the archive's administrator let in "
                f"{self._calling_ae!r} from this machine (--calling-ae)."
            )
            return ArchiveError(self.name, "it rejects the association", remedy)
        if association.acceptor.primitive is not None:
            remedy = "Ask who runs it whether it takes DICOM SEG, or use its DICOMweb address."
            return TransferError(self.name, "it offers no such service", remedy)
        return HiccupError(self.name, "no connection, or an aborted association", "Try again.")

    def _demand_success(self, status: int | None) -> None:
        """Raise what a final status means.

        Source: DICOM PS3.7, annex C; PS3.4, tables B.2-1, C.4-1 and C.4-3.
        """
        if status is None:
            raise HiccupError(self.name, "the association was aborted", "Try again.")
        if status == _SUCCESS:
            return
        found = f"it reports status 0x{status:04X}"
        # A7xx: out of resources.
        kind = HiccupError if status >> 8 == _OUT_OF_RESOURCES >> 8 else TransferError
        raise kind(self.name, found, "Look into the archive's log.")


def _image_contexts() -> list[PresentationContext]:
    """Return what may come: a context of its own for each compression.

    In a context with several, the archive chooses one for all instances, and cannot send those
    that it has in another. No more than 128 fit into an association.
    """
    return [build_context(image, syntax) for image in _IMAGES for syntax in (_PLAIN, *_COMPRESSED)]


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
    texts = {}
    for element in answer:
        value = element.value
        several = value if isinstance(value, MultiValue) else [value]
        if element.keyword and element.VR != "SQ" and value not in (None, ""):
            texts[element.keyword] = "\\".join(str(one) for one in several)
    return texts


def _send_at_once(event: evt.Event) -> None:
    """Send small packets without waiting: else each command waits for an answer to the last."""
    connection = event.assoc.dul.socket.socket
    if connection is not None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
