"""Pull a study into the working folder, whole or not at all.

    incoming/<study>/<series>/00001.dcm ...

A series' folder appears when all instances that the archive lists are in it and each is whole.
"""

import errno
import logging
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from pipeline.archive.folders import remove_pulled
from pipeline.archive.retry import PatientArchive
from pipeline.archive.transport import InstanceKey, SeriesKey, TransferError
from pipeline.archive.whole import key_of, read_whole
from pipeline.errors import ArchiveError

logger = logging.getLogger(__name__)

ROUNDS = 3
"""How often an instance is asked for that did not arrive whole."""


class StoppedError(Exception):
    """The run ends while a study is pulled."""


@dataclass(frozen=True)
class WantedStudy:
    """A study to pull.

    Attributes:
        study_uid: Study Instance UID.
        name: For people and folders.
        series: Name of each series, by Series Instance UID.
        num_listed: Number of instances that the archive says a series has; not for all.
    """

    study_uid: str = field(repr=False)
    name: str
    series: Mapping[str, str] = field(repr=False)
    num_listed: Mapping[str, int] = field(repr=False, default_factory=dict)


def pull_study(
    wanted: WantedStudy, archive: PatientArchive, incoming: Path, stop: threading.Event
) -> Path:
    """Retrieve the series of a study; those that are there already are kept.

    Args:
        wanted: What to pull.
        archive: Where from.
        incoming: Folder of all studies at work.
        stop: When set, the pull ends at the next instance.

    Returns:
        The study's folder, with a folder for each series and nothing else.

    Raises:
        TransferError: If a series does not come whole. Then none is to be segmented: another one
            must not take its place.
        ArchiveError: If the archive is gone, or the disk is full.
        StoppedError: If `stop` was set.
    """
    study = incoming / wanted.name
    study.mkdir(mode=0o700, parents=True, exist_ok=True)
    for found in study.iterdir():
        if found.name not in wanted.series.values():
            remove_pulled(found)
    for series_uid, name in wanted.series.items():
        series = SeriesKey(wanted.study_uid, series_uid)
        _pull_series(series, wanted.num_listed.get(series_uid, 0), archive, study / name, stop)
    return study


def _pull_series(
    series: SeriesKey, num_listed: int, archive: PatientArchive, folder: Path, stop: threading.Event
) -> None:
    uids = archive.find_instances(series)
    if not uids:
        raise TransferError(f"series {folder.name}", "the archive lists no instance", "Try later.")
    if folder.is_dir():
        if len(list(folder.iterdir())) == len(uids):
            return
        remove_pulled(folder)
    with _disk_explained(folder.parent.parent), _whole_folder(folder) as temporary:
        landing = FolderLanding(temporary, stop)
        archive.pull_series(series, landing)
        missing = _pull_missing(uids, series, archive, landing)
        # An archive that counts more than it lists may still be receiving them.
        num_expected = max(len(uids), num_listed)
        num_missing = num_expected - len(uids) + len(missing)
        if num_missing:
            found = f"{num_missing} of {num_expected} instances did not arrive whole"
            remedy = "Run the same command later; if it stays so, ask who runs the archive."
            raise TransferError(f"series {folder.name}", found, remedy)


def _pull_missing(
    uids: frozenset[str], series: SeriesKey, archive: PatientArchive, landing: "FolderLanding"
) -> frozenset[str]:
    """Ask singly for what did not come; return what still did not."""
    missing = uids - landing.arrived(series)
    for _ in range(ROUNDS):
        try:
            for uid in sorted(missing):
                key = InstanceKey(series.study_uid, series.series_uid, uid)
                archive.pull_instance(key, landing)
        except TransferError as error:
            logger.debug("%s: %s", archive.name, error.found)
            return uids - landing.arrived(series)
        missing = uids - landing.arrived(series)
    return missing


class FolderLanding:
    """A folder that instances arrive in, numbered: their own names would say too much.

    Args:
        folder: Empty.
        stop: When set, no more are taken.
    """

    def __init__(self, folder: Path, stop: threading.Event) -> None:
        self._folder, self._stop = folder, stop
        self._num_files = 0
        self._path_of: dict[str, Path] = {}

    @contextmanager
    def file(self) -> Iterator[BinaryIO]:
        """Give the next file."""
        if self._stop.is_set():
            raise StoppedError
        self._num_files += 1
        with (self._folder / f"{self._num_files:05d}.dcm").open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())

    def arrived(self, series: SeriesKey) -> frozenset[str]:
        """Return the SOP Instance UIDs that are here; remove what is cut, alien or twice here."""
        for path in sorted(set(self._folder.iterdir()) - set(self._path_of.values())):
            dataset = read_whole(path)
            key = None if dataset is None else key_of(dataset)
            is_ours = key is not None and key.series_uid == series.series_uid
            if key is None or not is_ours or key.instance_uid in self._path_of:
                path.unlink()
            else:
                self._path_of[key.instance_uid] = path
        return frozenset(self._path_of)


@contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """Give a folder that becomes `folder` when the block ends well.

    Its name is another than `pipeline.files` gives: what that left is removed whenever a cohort's
    run begins, which is while the next study is pulled.
    """
    temporary = folder.with_name(f"{folder.name}.partial")
    temporary.mkdir(mode=0o700)
    try:
        yield temporary
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _disk_explained(incoming: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        remedy = "Free some space and run the same command: what was done is kept."
        raise ArchiveError(incoming, "no space is left on the disk", remedy) from None
