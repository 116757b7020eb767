"""How fast an archive gives and takes, over DICOMweb and DIMSE; writes `archive.md`.

Run as `python -m benchmarks.archive`; needs Debian's orthanc and orthanc-dicomweb, and runs one.
"""

import importlib
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.uid import CTImageStorage, generate_uid
from pynetdicom import AE

from benchmarks.common import table
from pipeline.pacs import (
    Credentials,
    PatientArchive,
    RoundTrip,
    connect,
    parse_address,
    parse_query,
    run_round_trip,
)
from pipeline.pacs.association import AT_ONCE
from pipeline.pacs.instance import key_of
from pipeline.pacs.pull import FolderLanding
from pipeline.pacs.transport import SeriesKey
from tests.pacs.orthanc import AE_TITLE, CALLING_AE, PASSWORD, USER, Orthanc, missing, running
from tests.pacs.studies import ThresholdSegmenter, make_study

NUM_FILES = 80
SIZE = 256
NUM_STUDIES, NUM_SLICES = 8, 20
ROUNDS = 3
PAGE = Path(__file__).with_suffix(".md")


def main() -> None:
    """Measure, and write the page."""
    if why := missing():
        raise SystemExit(why)
    with tempfile.TemporaryDirectory() as folder, running(Path(folder) / "orthanc") as archive:
        rows = list(_transfers(archive, Path(folder)))
        trips = list(_round_trips(archive, Path(folder)))
    lines = [
        "# An archive, measured",
        "",
        "`python -m benchmarks.archive`, against an Orthanc on the same machine (2 cores, shared "
        "with other work). What matters is the ratio: a network adds its own time.",
        "",
        f"## {NUM_FILES} CT slices of {SIZE}x{SIZE} ({SIZE * SIZE * 2 // 1024} KiB each)",
        "",
        f"Seconds, median of {ROUNDS} (least to most).",
        "",
        *table(["what", "seconds", "ms a file"], rows),
        "",
        f"## Round trip of {NUM_STUDIES} studies of {NUM_SLICES} slices",
        "",
        "Pull, check that each instance is whole, segment by a threshold, push the DICOM SEG, ask "
        "for it again, journal. *Again*: the same command when all is done.",
        "",
        *table(["transport", "seconds", "seconds a study", "again, seconds"], trips),
        "",
    ]
    PAGE.write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


def _open(archive: Orthanc, transport: str) -> PatientArchive:
    credentials = Credentials(USER, PASSWORD) if transport == "web" else None
    address = parse_address(getattr(archive, transport), "--archive")
    return connect(address, credentials=credentials, calling_ae=CALLING_AE)


def _transfers(archive: Orthanc, folder: Path) -> Iterable[list[str]]:
    pixels = np.random.default_rng(0).integers(0, 4096, (SIZE, SIZE), np.uint16).tobytes()
    how = {"Rows": SIZE, "Columns": SIZE, "PixelData": pixels}
    study_uid, (series_uid,) = make_study(folder / "sent", num_slices=NUM_FILES, **how)
    paths = sorted((folder / "sent").rglob("*.dcm"))
    for path in paths:
        archive.store(path)
    series = SeriesKey(study_uid, series_uid)
    for transport, find, get in (("web", "QIDO-RS", "WADO-RS"), ("dimse", "C-FIND", "C-GET")):
        opened = _open(archive, transport)
        whole, singly = partial(_pull, opened, series, folder), partial(_pull_singly, opened, paths)
        yield _row(f"search for the instances, {find}", partial(opened.find_instances, series))
        yield _row(f"pull the series, {get}", whole)
        yield _row(f"pull one by one, {get}", partial(singly, folder))
    renew = partial(_renew, paths)
    for transport, what in (("web", "STOW-RS"), ("dimse", "C-STORE")):
        push = partial(_push, _open(archive, transport), paths)
        yield _row(f"push one by one, each asked for before, {what}", push, renew)
    for at_once in (False, True):
        how_sent = "without waiting for packets" if at_once else "as the library does by itself"
        yield _row(
            f"push in one association, C-STORE, {how_sent}",
            partial(_store_all, archive, paths, at_once=at_once),
            renew,
        )


def _pull(opened: PatientArchive, series: SeriesKey, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as landing:
        taken = FolderLanding(Path(landing), threading.Event())
        opened.pull_series(series, taken)
        assert len(taken.arrived(series)) == NUM_FILES


def _pull_singly(opened: PatientArchive, paths: list[Path], folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as landing:
        taken = FolderLanding(Path(landing), threading.Event())
        for path in paths:
            opened.pull_instance(key_of(dcmread(path)), taken)


def _push(opened: PatientArchive, paths: list[Path]) -> None:
    for path in paths:
        key = key_of(dcmread(path))
        if not opened.has(key):
            opened.push(key, path)


def _store_all(archive: Orthanc, paths: list[Path], *, at_once: bool) -> None:
    entity = AE(ae_title=CALLING_AE)
    entity.add_requested_context(CTImageStorage, "1.2.840.10008.1.2.1")
    association = entity.associate(
        "127.0.0.1",
        archive.dicom_port,
        ae_title=AE_TITLE,
        evt_handlers=list(AT_ONCE) if at_once else [],
    )
    for path in paths:
        assert association.send_c_store(path).Status == 0
    association.release()


def _renew(paths: list[Path]) -> None:
    """Give each file a new UID: what is there already is stored faster."""
    for path in paths:
        dataset = dcmread(path)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.save_as(path)


def _row(
    what: str, task: Callable[[], object], before: Callable[[], object] = lambda: None
) -> list[str]:
    seconds = []
    for _ in range(ROUNDS):
        before()
        start = time.perf_counter()
        task()
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    text = f"{median:.2f} ({min(seconds):.2f} to {max(seconds):.2f})"
    return [what, text, f"{1000 * median / NUM_FILES:.1f}"]


def _round_trips(archive: Orthanc, folder: Path) -> Iterable[list[str]]:
    make_study(folder / "warm", num_slices=2)
    ThresholdSegmenter(folder)(folder / "warm")
    # Seconds of imports are no part of a round trip.
    importlib.import_module("pipeline.cohort")
    for transport, name in (("web", "DICOMweb"), ("dimse", "DIMSE")):
        patient = generate_uid()[-16:]
        for _ in range(NUM_STUDIES):
            make_study(folder / transport, num_slices=NUM_SLICES, PatientID=patient)
        for path in (folder / transport).rglob("*.dcm"):
            archive.store(path)
        query = parse_query([f"PatientID={patient}"], take_all=False)
        out = folder / f"out_{transport}"
        segment = ThresholdSegmenter(out)
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            source, target = _open(archive, transport), _open(archive, transport)
            trip = RoundTrip(source, target, query, None, out, "recipe")
            assert run_round_trip(trip, segment).all_done
            seconds.append(time.perf_counter() - start)
        first, again = seconds
        yield [name, f"{first:.1f}", f"{first / NUM_STUDIES:.2f}", f"{again:.2f}"]


if __name__ == "__main__":
    main()
