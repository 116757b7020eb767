import socket

import pytest
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification

from pipeline.errors import ArchiveError
from pipeline.pacs import association
from pipeline.pacs.address import DimseAddress
from pipeline.pacs.association import image_contexts
from pipeline.pacs.dimse import DimseArchive
from pipeline.pacs.transport import HiccupError
from tests.pacs.orthanc import AE_TITLE, CALLING_AE


def test_an_unknown_caller_is_told_what_to_do(orthanc):
    archive = DimseArchive(DimseAddress(AE_TITLE, "127.0.0.1", orthanc.dicom_port), "STRANGER")
    with pytest.raises(ArchiveError, match=r"rejects the association.*let in 'STRANGER'") as raised:
        archive.check()
    assert type(raised.value) is ArchiveError


def test_a_caller_too_many_may_try_again(peer):
    archive = peer([Verification], maximum_associations=1)
    entity = AE()
    entity.add_requested_context(Verification)
    first = entity.associate("127.0.0.1", archive._peer._address.port)
    try:
        with pytest.raises(HiccupError, match="too busy"):
            archive.check()
    finally:
        first.release()


# The library leaves the socket that it could not connect to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_nobody_there_may_pass():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(HiccupError, match="no connection"):
        DimseArchive(DimseAddress("PACS", "127.0.0.1", port), CALLING_AE).check()


def test_an_abort_may_pass(peer):
    def abort(event):
        event.assoc.abort()
        return 0x0000

    with pytest.raises(HiccupError, match="aborted"):
        peer([Verification], [(evt.EVT_C_ECHO, abort)]).check()


def test_what_may_come_fits_into_an_association_beside_the_query():
    contexts = image_contexts()
    assert len(contexts) < 128
    # One compression in each, so that an archive can send every instance as it is.
    assert {len(context.transfer_syntax) for context in contexts} == {1, 2}


def test_small_packets_are_not_held_back(peer):
    def options(event):
        seen.append(
            event.assoc.dul.socket.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        )

    seen = []
    archive = peer([Verification])
    with archive._peer.associated([_verification()], [(evt.EVT_ESTABLISHED, options)]):
        pass
    assert seen
    assert all(seen)


def _verification():
    entity = AE()
    entity.add_requested_context(Verification)
    return entity.requested_contexts[0]


@pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="only Linux has this option")
def test_answers_are_acknowledged_each_time(peer, monkeypatch):
    asked = []
    monkeypatch.setattr(association, "_set_option", lambda event, option: asked.append(option))
    peer([Verification]).check()
    assert asked.count(socket.TCP_NODELAY) == 1
    # The association, the echo and the release.
    assert asked.count(socket.TCP_QUICKACK) >= 3
