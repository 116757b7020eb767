"""Associations with an archive's application entity, what comes in, and their troubles.

pynetdicom reads as many bytes as a peer announces, up to 4 GB, for as long as they take.

Source: DICOM PS3.8, 9.3.1 (structure of protocol data units).

Source: DICOM PS3.7, annex C (status) and D.3 (association); PS3.8, 9.3.4 (rejection).
"""

import errno
import select
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pydicom.errors import InvalidDicomError
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
)

from pipeline.errors import ArchiveError
from pipeline.pacs.address import DimseAddress
from pipeline.pacs.transport import BusyError, HiccupError, TransferError

MAX_UNIT_BYTES = 1 << 20
"""Of one protocol data unit; we ask for 16 kB, and an association's answer is no larger."""

MAX_MESSAGE_BYTES = 64 << 20
"""Of one answer to a search."""

LEAST_BYTES_A_SECOND = 512
"""That a message must bring, beyond the time that its first byte may take."""

_HEADER_BYTES = 6
_DATA = 0x04


class Incoming:
    """Watches over what a connection brings.

    Args:
        most_bytes: Of one message.
        timeout_s: For a message to begin to come.
    """

    def __init__(self, most_bytes: int, timeout_s: float) -> None:
        self._most_bytes, self._timeout_s = most_bytes, timeout_s
        self._begin()

    @property
    def handlers(self) -> list[tuple[evt.EventType, object]]:
        """What pynetdicom is to call."""
        return [(evt.EVT_CONN_OPEN, self._watch), (evt.EVT_DIMSE_RECV, lambda _: self._begin())]

    def _begin(self) -> None:
        """Forget the message before."""
        self._began, self._num_bytes = 0.0, 0

    def _watch(self, event: evt.Event) -> None:
        connection = event.assoc.dul.socket

        def receive(number: int) -> bytearray:
            try:
                return within_bounds(number)
            except OSError:
                # pynetdicom takes it for closed by the peer.
                connection.socket.close()
                raise

        def within_bounds(number: int) -> bytearray:
            if number > MAX_UNIT_BYTES:
                raise OSError(errno.EMSGSIZE, "a protocol data unit is too large")
            content = bytearray()
            while len(content) < number:
                self._wait(connection.socket)
                part = connection.socket.recv(number - len(content))
                if not part:
                    break
                content += part
                self._num_bytes += len(part)
            if number == _HEADER_BYTES and content[:1] != bytes([_DATA]):
                # Not part of a message: its time begins here.
                self._begin()
            return content

        connection.recv = receive

    def _wait(self, opened: object) -> None:
        """Wait for more.

        Raises:
            OSError: If the message is too large, or takes too long.
        """
        now = time.monotonic()
        self._began = self._began or now
        if self._num_bytes > self._most_bytes:
            raise OSError(errno.EMSGSIZE, "a message is too large")
        spent_s = now - self._began
        left_s = self._timeout_s + self._num_bytes / LEAST_BYTES_A_SECOND - spent_s
        poll = select.poll()
        poll.register(opened, select.POLLIN)  # type: ignore[arg-type]
        if left_s <= 0 or not poll.poll(1000 * left_s):
            raise TimeoutError


TIMEOUT_S = 60.0
"""To answer; an archive that fetches from tape may need it."""

CONNECT_TIMEOUT_S = 10.0

PLAIN = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
"""Transfer syntaxes that everybody knows."""

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700

_IMAGES = (
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
    SecondaryCaptureImageStorage,
)
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
_TRANSIENT_REJECTION = 0x02


class Peer:
    """An archive's application entity.

    Args:
        address: Where it is.
        calling_ae: What we call ourselves.
    """

    def __init__(self, address: DimseAddress, calling_ae: str) -> None:
        self.name = str(address)
        self._address, self._calling_ae = address, calling_ae

    @contextmanager
    def associated(
        self,
        contexts: Sequence[PresentationContext],
        handlers: Sequence[tuple[evt.EventType, object]] = (),
        most_bytes: int = MAX_MESSAGE_BYTES,
    ) -> Iterator[Association]:
        """Give an association with what it may transfer, until the block ends.

        Args:
            contexts: To propose; at most 128.
            handlers: Of events; with any, the peer may store images in the association.
            most_bytes: Of one message that the peer sends.

        Raises:
            HiccupError: If there is no connection, or the peer aborts or is too busy.
            TransferError: If it does not offer what is proposed.
            ArchiveError: If it does not let us in.
        """
        entity = AE(ae_title=self._calling_ae)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = TIMEOUT_S
        entity.connection_timeout = CONNECT_TIMEOUT_S
        association = entity.associate(
            self._address.host,
            self._address.port,
            contexts=list(contexts),
            ae_title=self._address.ae_title,
            ext_neg=[build_role(image, scp_role=True) for image in _IMAGES] if handlers else None,
            evt_handlers=[*handlers, *AT_ONCE, *Incoming(most_bytes, TIMEOUT_S).handlers],
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
                return BusyError(self.name, "it is too busy for an association", "Try again.")
            remedy = (
                f"Check its AE title, and have the archive's administrator let in "
                f"{self._calling_ae!r} from this machine (--calling-ae)."
            )
            return ArchiveError(self.name, "it rejects the association", remedy)
        if association.acceptor.primitive is not None:
            remedy = "Ask who runs it whether it takes DICOM SEG, or use its DICOMweb address."
            return TransferError(self.name, "it offers no such service", remedy)
        return HiccupError(self.name, "no connection, or an aborted association", "Try again.")

    def demand_success(self, status: int | None) -> None:
        """Raise what a final status means, unless it is success.

        Args:
            status: None: the association ended without one.

        Source: DICOM PS3.7, annex C; PS3.4, tables B.2-1, C.4-1 and C.4-3.
        """
        if status is None:
            raise HiccupError(self.name, "the association was aborted", "Try again.")
        if status == SUCCESS:
            return
        found = f"it reports status 0x{status:04X}"
        # A7xx: out of resources.
        kind = BusyError if status >> 8 == OUT_OF_RESOURCES >> 8 else TransferError
        raise kind(self.name, found, "Look into the archive's log.")


def image_contexts() -> list[PresentationContext]:
    """Return what may come: a context of its own for each compression.

    In a context with several, the archive chooses one for all instances, and cannot send those
    that it has in another. No more than 128 fit into an association.
    """
    return [build_context(image, syntax) for image in _IMAGES for syntax in (PLAIN, *_COMPRESSED)]


def _send_at_once(event: evt.Event) -> None:
    """Send small packets without waiting for an answer to the one before."""
    _set_option(event, socket.TCP_NODELAY)


def _acknowledge_at_once(event: evt.Event) -> None:
    """Acknowledge the answer's first packet at once: the peer may wait for that with the next.

    Both waits together are most of the time of a C-STORE: 90 instead of 5 ms (Orthanc 1.10). The
    system forgets this option, so it is set each time, where there is such a one (Linux).
    """
    option = getattr(socket, "TCP_QUICKACK", None)
    if option is not None:
        _set_option(event, option)


def _set_option(event: evt.Event, option: int) -> None:
    connection = event.assoc.dul.socket
    if connection is not None and connection.socket is not None:
        connection.socket.setsockopt(socket.IPPROTO_TCP, option, 1)


AT_ONCE = ((evt.EVT_CONN_OPEN, _send_at_once), (evt.EVT_DATA_SENT, _acknowledge_at_once))
"""Handlers that keep an association from waiting for nothing."""
