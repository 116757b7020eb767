"""What comes in over an association, within bounds of size and time.

pynetdicom reads as many bytes as a peer announces, up to 4 GB, for as long as they take.

Source: DICOM PS3.8, 9.3.1 (structure of protocol data units).
"""

import errno
import select
import time

from pynetdicom import evt

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
