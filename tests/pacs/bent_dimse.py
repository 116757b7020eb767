"""An application entity on this machine whose answers can be bent, one by one."""

import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydicom import Dataset, FileDataset, dcmread
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    CTImageStorage,
    EnhancedSRStorage,
    SegmentationStorage,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    Verification,
)

PENDING = 0xFF00
LEVELS = {"STUDY": "studies", "SERIES": "series", "IMAGE": "instances"}


class BentPeer:
    """Holds DICOM files and answers for them, in the way that `bend` says.

    `bend` is called with the kind of each question and its study's UID, and gives a generator
    function of event and good answers (status, data set or None) to answer with; None: all is
    well. For a push it gives the status.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self.instances: dict[str, FileDataset] = {}
        self.pushed: Counter[str] = Counter()
        self.bend: Callable[[str, str], Any] = lambda question, study: None
        for path in paths:
            dataset = dcmread(path)
            self.instances[str(dataset.SOPInstanceUID)] = dataset
        self.url = ""

    def find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        """Answer a C-FIND."""
        asked = event.identifier
        question = LEVELS[asked.QueryRetrieveLevel]
        if question == "instances" and asked.get("SOPInstanceUID"):
            question = "has"
        found: dict[str, Dataset] = {}
        number = Counter(str(d.SeriesInstanceUID) for d in self.instances.values())
        for d in self.instances.values():
            if d.Modality != "CT" and question != "has":
                continue
            answer = Dataset()
            answer.QueryRetrieveLevel = asked.QueryRetrieveLevel
            answer.StudyInstanceUID, answer.Modality = d.StudyInstanceUID, d.Modality
            key = str(d.StudyInstanceUID)
            if question != "studies":
                answer.SeriesInstanceUID = key = d.SeriesInstanceUID
                answer.NumberOfSeriesRelatedInstances = number[str(d.SeriesInstanceUID)]
            if question in ("instances", "has"):
                answer.SOPInstanceUID = key = d.SOPInstanceUID
            if all(
                not asked.get(uid) or asked[uid].value == answer[uid].value
                for uid in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
                if uid in answer
            ):
                found[key] = answer
        yield from self._bent(event, question, [(PENDING, answer) for answer in found.values()])

    def get(self, event: evt.Event) -> Iterator[Any]:
        """Answer a C-GET."""
        asked = event.identifier
        question = "pull instance" if asked.get("SOPInstanceUID") else "pull series"
        wanted = [
            d
            for uid, d in self.instances.items()
            if d.SeriesInstanceUID == asked.SeriesInstanceUID
            and asked.get("SOPInstanceUID", uid) == uid
        ]
        answers = list(self._bent(event, question, [(PENDING, d) for d in wanted]))
        # With none to send it would say that all went well.
        yield max(1, sum(dataset is not None for _, dataset in answers))
        yield from answers

    def store(self, event: evt.Event) -> int:
        """Answer a C-STORE."""
        dataset = dcmread(io.BytesIO(event.encoded_dataset()))
        status = self.bend("push", str(dataset.StudyInstanceUID))
        if status is None or status == "lost":
            self.instances[str(dataset.SOPInstanceUID)] = dataset
            self.pushed[str(dataset.SOPInstanceUID)] += 1
        if status == "lost":
            event.assoc.abort()
        return status if isinstance(status, int) else 0

    def _bent(self, event: evt.Event, question: str, well: list[Any]) -> Iterator[Any]:
        bent = self.bend(question, str(event.identifier.get("StudyInstanceUID", "")))
        yield from well if bent is None else bent(event, well)


@contextmanager
def bent_peer(paths: Iterable[Path]) -> Iterator[BentPeer]:
    """Give an application entity that answers until the block ends."""
    peer, entity = BentPeer(paths), AE(ae_title="BENT")
    for service in (
        Verification,
        StudyRootQueryRetrieveInformationModelFind,
        StudyRootQueryRetrieveInformationModelGet,
        CTImageStorage,
        Comprehensive3DSRStorage,
        ComprehensiveSRStorage,
        EnhancedSRStorage,
        SegmentationStorage,
    ):
        entity.add_supported_context(service, scu_role=True, scp_role=True)
    handlers = [
        (evt.EVT_C_FIND, peer.find),
        (evt.EVT_C_GET, peer.get),
        (evt.EVT_C_STORE, peer.store),
    ]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    peer.url = f"dicom://BENT@127.0.0.1:{server.server_address[1]}"
    try:
        yield peer
    finally:
        server.shutdown()


def status(number: int) -> Callable[[evt.Event, list[Any]], Iterator[Any]]:
    """Return an answer that is a failure."""
    return lambda event, well: iter([(number, None)])


def abort(event: evt.Event, well: list[Any]) -> Iterator[Any]:
    """Abort the association after one answer."""
    yield from well[:1]
    event.assoc.abort()


def nothing(event: evt.Event, well: list[Any]) -> Iterator[Any]:
    """Say that there is nothing."""
    return iter(())


def but_one(event: evt.Event, well: list[Any]) -> Iterator[Any]:
    """Leave one out, as if it were not there."""
    return iter(well[1:])


def twice(event: evt.Event, well: list[Any]) -> Iterator[Any]:
    """Give each twice."""
    return iter([*well, *well])


def changed(**attributes: object) -> Callable[[evt.Event, list[Any]], Iterator[Any]]:
    """Return good answers in which something is changed."""

    def answer(event: evt.Event, well: list[Any]) -> Iterator[Any]:
        for number, dataset in well:
            copy = (
                dcmread(io.BytesIO(_bytes(dataset))) if "PixelData" in dataset else Dataset(dataset)
            )
            for keyword, value in attributes.items():
                copy.add_new(keyword, "UI" if keyword.endswith("UID") else "OW", value)
            yield number, copy

    return answer


def _bytes(dataset: Dataset) -> bytes:
    content = io.BytesIO()
    dataset.save_as(content, enforce_file_format=True)
    return content.getvalue()


STRANGE: dict[str, tuple[str, Any, str]] = {
    "refused": ("series", status(0xA900), "status 0xA900"),
    "unable": ("instances", status(0xC001), "status 0xC001"),
    "no resources": ("series", status(0xA700), "status 0xA700"),
    "a status that is none": ("series", status(0x1234), "status 0x1234"),
    "aborted": ("series", abort, "aborted"),
    "aborted among instances": ("instances", abort, "aborted"),
    "nothing": ("instances", nothing, "lists no instance"),
    "a UID that is none": ("series", changed(SeriesInstanceUID="../x"), "a UID that is none"),
    "a long UID": ("series", changed(SeriesInstanceUID="1" * 70), "a UID that is none"),
    "of another study": ("series", changed(StudyInstanceUID="1.2.3"), "of another study"),
    "pull refused": ("pull", status(0xA702), "status 0xA702"),
    "pull unable": ("pull", status(0xC002), "status 0xC002"),
    "pull aborted": ("pull", abort, "aborted"),
    "pull gives nothing": ("pull", nothing, r"(\d+) of \1 instances did not arrive"),
    "pull gives less": ("pull", but_one, "did not arrive whole"),
    "pull gives others": ("pull", changed(SeriesInstanceUID="1.2"), "did not arrive whole"),
    "pull gives cut ones": ("pull", changed(PixelData=b"ab"), "did not arrive whole"),
}
"""What answers which question, by kind, with a pattern of what is said of it."""
