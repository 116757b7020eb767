"""Peers that announce or send more than is reasonable, or nothing, or a byte at a time."""

import gc
import socket
import threading
import time
from contextlib import suppress

import pytest

from pipeline.pacs import association
from pipeline.pacs.address import DimseAddress
from pipeline.pacs.dimse import DimseArchive
from pipeline.pacs.transport import HiccupError


def silent(peer):
    """Until it is given up."""
    peer.settimeout(5)
    with suppress(OSError):
        while peer.recv(1 << 16):
            pass


def drip(peer):
    peer.sendall(b"\x02\x00" + (5000).to_bytes(4, "big"))
    for _ in range(100):
        peer.sendall(b"\0")
        time.sleep(0.05)


def page(peer):
    peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(100))


def endless(peer):
    peer.sendall(b"\x02\x00\xff\xff\xff\xff")
    for _ in range(64):
        peer.sendall(bytes(1 << 20))


# pynetdicom leaves its own end to the collector when a peer breaks the rules.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("answer", [silent, drip, page, endless])
def test_a_peer_that_does_not_answer_as_it_should_is_given_up(answer, monkeypatch):
    monkeypatch.setattr(association, "TIMEOUT_S", 0.4)
    sent = []

    def serve(listening):
        peer, _ = listening.accept()
        try:
            peer.recv(1 << 16)
            answer(peer)
        except OSError:
            sent.append("broken")
        finally:
            peer.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,), daemon=True)
        thread.start()
        archive = DimseArchive(DimseAddress("X", *listening.getsockname()), "TRIVOX")
        began = time.monotonic()
        with pytest.raises(HiccupError, match="no connection, or an aborted association"):
            archive.check()
        assert time.monotonic() - began < 5
        thread.join(5)
    # Here, where what it says of an open socket is ignored.
    gc.collect()
    assert bool(sent) == (answer in (drip, endless))
