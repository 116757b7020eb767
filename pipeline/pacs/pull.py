"""Pull a study into the working folder, whole or not at all.

    incoming/<study>/<series>/00001.dcm ...

A series' folder appears when all instances that the archive lists are in it and each is whole.
"""

import os
import shutil
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import ArchiveError, PipelineError
from pipeline.pacs.folders import remove_pulled
from pipeline.pacs.instance import Basis, are_equal, basis_of, key_of, read_whole
from pipeline.pacs.transport import (
    InstanceKey,
    PatientArchive,
    SeriesKey,
    TransferError,
    checked_uid,
)
from pipeline.system.disk import FULL, free_bytes, in_words

ROUNDS = 3
"""How often an instance is asked for that did not arrive whole."""

_PARTIAL = ".partial"
_SPARE = 16
"""Instances that may come beyond those that are listed: a series may grow meanwhile."""


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


@dataclass(frozen=True)
class Pulled:
    """A study that was pulled.

    Attributes:
        folder: Has a folder for each series and nothing else.
        bases: What each series consists of, by Series Instance UID.
    """

    folder: Path
    bases: Mapping[str, Basis] = field(repr=False)


def pull_study(
    wanted: WantedStudy, archive: PatientArchive, incoming: Path, stop: threading.Event
) -> Pulled:
    """Retrieve the series of a study; those that are there already are kept.

    Args:
        wanted: What to pull.
        archive: Where from.
        incoming: Folder of all studies at work.
        stop: When set, the pull ends at the next instance.

    Raises:
        TransferError: If a series does not come whole, or is still arriving in the archive. Then
            none is to be segmented: another one must not take its place.
        ArchiveError: If the archive is gone, or the disk is full.
        StoppedError: If `stop` was set.
    """
    study = incoming / wanted.name
    with _disk_explained(incoming):
        study.mkdir(mode=0o700, parents=True, exist_ok=True)
        for found in study.iterdir():
            if found.name not in wanted.series.values():
                remove_pulled(found)
        bases = {}
        for series_uid, name in wanted.series.items():
            series = SeriesKey(wanted.study_uid, series_uid)
            num_listed = wanted.num_listed.get(series_uid, 0)
            bases[series_uid] = _pull_series(series, num_listed, archive, study / name, stop)
    return Pulled(study, bases)


def changed_series(
    archive: PatientArchive, bases: Mapping[str, Basis], study_uid: str
) -> dict[str, Basis]:
    """Return what those series of a study consist of now that something was decided on.

    Args:
        archive: To ask.
        bases: What each consisted of then, by Series Instance UID.
        study_uid: Study Instance UID.

    Raises:
        TransferError: If the archive does not say.
    """
    now = {uid: basis_of(_list(SeriesKey(study_uid, uid), archive)) for uid in bases}
    return {uid: basis for uid, basis in now.items() if basis != bases[uid]}


def _pull_series(
    series: SeriesKey, num_listed: int, archive: PatientArchive, folder: Path, stop: threading.Event
) -> Basis:
    listed = _settled_list(series, num_listed, archive, folder.name)
    if folder.is_dir():
        if FolderLanding(folder, stop).arrived(series) == set(listed):
            return basis_of(listed)
        remove_pulled(folder)
    with _whole_folder(folder) as temporary:
        landing = FolderLanding(temporary, stop)
        landing.expect(max(len(listed), num_listed))
        archive.pull_series(series, landing)
        for uid in sorted(uid for uid, number in Counter(listed).items() if number > 1):
            # Listed twice: are they the same?
            archive.pull_instance(_instance(series, uid), landing)
        for wait_s in (*archive.patience.waits_s, None):
            trouble = _pull_missing(frozenset(listed), series, archive, landing)
            again = _list(series, archive)
            if set(again) == set(listed):
                break
            if wait_s is None:
                found = (
                    f"it is still arriving: {len(set(listed))} instances, then {len(set(again))}"
                )
                remedy = "Run the same command when all are there."
                raise TransferError(f"series {folder.name}", found, remedy)
            listed = again
            archive.wait(wait_s)
        _check_whole(listed, num_listed, landing.arrived(series), folder.name, trouble)
    return basis_of(listed)


def _check_whole(
    listed: Sequence[str], num_listed: int, arrived: frozenset[str], name: str, trouble: str
) -> None:
    """Refuse a series of which instances lack.

    Args:
        listed: Instances that the archive lists; one may be twice.
        num_listed: How many it says there are; it may count one twice that it lists twice, and
            more than it lists if it is still receiving them.
        arrived: Instances that are here.
        name: Of the series.
        trouble: What came last instead of an instance; empty if nothing did.
    """
    num_expected = max(len(set(listed)), num_listed - (len(listed) - len(set(listed))))
    num_missing = max(len(set(listed) - arrived), num_expected - len(arrived))
    if num_missing > 0:
        found = f"{num_missing} of {num_expected} instances did not arrive whole"
        found += f" ({trouble})" * bool(trouble)
        remedy = "Run the same command later; if it stays so, ask who runs the archive."
        raise TransferError(f"series {name}", found, remedy)


def _settled_list(
    series: SeriesKey, num_listed: int, archive: PatientArchive, name: str
) -> list[str]:
    """Return the instances of a series: an index may be behind, so one that lacks is asked again.

    Raises:
        TransferError: If the archive lists none.
    """
    for wait_s in archive.patience.waits_s:
        listed = _list(series, archive)
        if listed and len(listed) >= num_listed:
            return listed
        archive.wait(wait_s)
    listed = _list(series, archive)
    if not listed:
        found = f"the archive lists no instance, after {archive.patience.tries} tries"
        raise TransferError(f"series {name}", found, "Try later.")
    return listed


def _list(series: SeriesKey, archive: PatientArchive) -> list[str]:
    return [checked_uid(uid, archive.name) for uid in archive.find_instances(series)]


def _instance(series: SeriesKey, uid: str) -> InstanceKey:
    return InstanceKey(series.study_uid, series.series_uid, uid)


def _pull_missing(
    uids: frozenset[str], series: SeriesKey, archive: PatientArchive, landing: "FolderLanding"
) -> str:
    """Ask singly for what did not come; return what came last instead of an instance."""
    landing.expect(2 * len(uids))
    missing, trouble = uids - landing.arrived(series), archive.last_trouble
    for number in range(ROUNDS):
        if number and missing:
            archive.wait(archive.patience.first_wait_s)
        try:
            for uid in sorted(missing):
                archive.pull_instance(_instance(series, uid), landing)
        except TransferError as error:
            return error.found
        missing = uids - landing.arrived(series)
    return trouble if missing else ""


class FolderLanding:
    """A folder that instances arrive in, numbered: their own names would say too much.

    Args:
        folder: Empty.
        stop: When set, no more are taken.
    """

    def __init__(self, folder: Path, stop: threading.Event) -> None:
        self._folder, self._stop = folder, stop
        self._where = f"series {folder.name.removesuffix(_PARTIAL)}"
        self._num_files, self._num_expected = 0, 0
        self._path_of: dict[str, Path] = {}

    def expect(self, number: int) -> None:
        """Take so many more instances, and some that come twice; no more than that."""
        self._num_expected = self._num_files + 2 * number + _SPARE

    @contextmanager
    def file(self) -> Iterator[BinaryIO]:
        """Give the next file; it is removed if what is written to it breaks off.

        Raises:
            StoppedError: If the run ends.
            TransferError: If more come than were expected.
        """
        if self._stop.is_set():
            raise StoppedError
        if self._num_files >= self._num_expected > 0:
            found = f"it sends more than the {self._num_files} instances it may"
            raise TransferError(self._where, found, "Ask who runs the archive.")
        self._num_files += 1
        path = self._folder / f"{self._num_files:05d}.dcm"
        try:
            with path.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def arrived(self, series: SeriesKey) -> frozenset[str]:
        """Return the SOP Instance UIDs that are here; remove what is cut, alien or here twice.

        Raises:
            TransferError: If two that differ have the same UID: nobody knows which one is meant.
        """
        for path in sorted(set(self._folder.iterdir()) - set(self._path_of.values())):
            dataset = read_whole(path)
            key = None if dataset is None else key_of(dataset)
            is_ours = key is not None and (key.study_uid, key.series_uid) == (
                series.study_uid,
                series.series_uid,
            )
            if key is None or not is_ours:
                path.unlink()
            elif key.instance_uid in self._path_of:
                if not are_equal(path, self._path_of[key.instance_uid]):
                    found = "two instances that differ have the same UID"
                    remedy = "Ask who runs the archive which one it should have."
                    raise TransferError(self._where, found, remedy)
                path.unlink()
            else:
                self._path_of[key.instance_uid] = path
        return frozenset(self._path_of)


@contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """Give a folder that becomes `folder` when the block ends well.

    Its name is another than `pipeline.system.files` gives: what that left is removed whenever a
    cohort's run begins, which is while the next study is pulled.
    """
    temporary = folder.with_name(f"{folder.name}{_PARTIAL}")
    temporary.mkdir(mode=0o700)
    try:
        yield temporary
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _disk_explained(incoming: Path) -> Iterator[None]:
    """Say what is wrong with the folder of pulled files, and that no study is to blame."""
    try:
        yield
    except PipelineError:
        raise
    except OSError as error:
        if error.errno in FULL:
            found = f"no space is left on the disk: {in_words(free_bytes(incoming))} are free"
            remedy = "Free some space and run the same command: what was done is kept."
        else:
            # Names of files here are numbers and salted hashes.
            where = "" if error.filename is None else f"{Path(error.filename).name}: "
            found = f"{where}{error.strerror or type(error).__name__}"
            remedy = "Mend that and run the same command: what was done is kept."
        raise ArchiveError(incoming, found, remedy) from None
