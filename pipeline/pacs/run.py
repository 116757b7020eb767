"""The round trip: pull studies, segment them, push the results, and be ready to go on.

While one study is segmented the next one is pulled; no more lie in the working folder. What is
noted in the ledger, and what lies complete in the folders, is not done again.
"""

import logging
import os
import platform
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.progress import Progress

from pipeline.errors import ConfigError, work_begun
from pipeline.pacs.address import Address, Credentials, WebAddress
from pipeline.pacs.folders import WorkFolders
from pipeline.pacs.ledger import Ledger, State
from pipeline.pacs.pull import Pulled, WantedStudy, changed_series, pull_study
from pipeline.pacs.segmenter import SegmentFolder
from pipeline.pacs.status import write_table
from pipeline.pacs.steps import Steps
from pipeline.pacs.transport import Patience, PatientArchive
from pipeline.pacs.work import Query, Work, find_work
from pipeline.system.progress import make_progress, track
from pipeline.system.quiet import quiet_libraries

logger = logging.getLogger(__name__)

_INSTALL = "Run: pip install 'trivox[archive]'"


def connect(
    address: Address,
    *,
    credentials: Credentials | None = None,
    ca: Path | None = None,
    calling_ae: str = "TRIVOX",
    patience: Patience | None = None,
) -> PatientArchive:
    """Return an archive; nothing is sent before it is asked for something.

    Args:
        address: Where it is.
        credentials: For DICOMweb.
        ca: Certificates to trust, as a PEM file; for DICOMweb.
        calling_ae: What we call ourselves; for DIMSE.
        patience: How often to ask again; None: the usual.

    Raises:
        ConfigError: If the packages for it are not installed, or an option does not go with it.
    """
    patience = patience or Patience()
    if isinstance(address, WebAddress):
        if ca is not None and not ca.is_file():
            raise ConfigError("--ca", f"{ca} is no file", "Name a file of PEM certificates.")
        try:
            from pipeline.pacs.web import WebArchive
        except ModuleNotFoundError as error:
            raise ConfigError(str(address), f"{error.name} is not installed", _INSTALL) from None
        if credentials is not None and address.is_readable_by_others:
            logger.warning("%s: credentials cross the network unencrypted; use https", address)
        return PatientArchive(WebArchive(address, credentials, ca), patience)
    if credentials is not None or ca is not None:
        remedy = "Leave --credentials and --ca out: DIMSE archives know callers by their AE title."
        raise ConfigError(str(address), "it takes no credentials or certificates", remedy)
    try:
        from pipeline.pacs.dimse import DimseArchive
    except ModuleNotFoundError as error:
        raise ConfigError(str(address), f"{error.name} is not installed", _INSTALL) from None
    return PatientArchive(DimseArchive(address, calling_ae), patience)


@dataclass(frozen=True)
class RoundTrip:
    """What to pull, and what to do with the results.

    Attributes:
        source: Archive to pull from.
        target: Archive to push to; None: results stay in the output folder. Another connection
            than `source`, since they work at the same time.
        query: What to pull.
        limit: Most studies to pull; None: all.
        out: Output folder; holds the journal.
        recipe: Names the model and its settings: what was done with another is done anew.
        keep: Leave pulled files where they are.
    """

    source: PatientArchive
    target: PatientArchive | None
    query: Query
    limit: int | None
    out: Path
    recipe: str
    keep: bool = False


@dataclass(frozen=True)
class Summary:
    """What became of the series of one call.

    Attributes:
        num_studies: Studies that the query found.
        num_skipped: How many of them were complete before.
        counts: Number of series by state; with a target each is pushed, rejected or failed.
    """

    num_studies: int
    num_skipped: int
    counts: dict[State, int]

    @property
    def num_series(self) -> int:
        """Number of series in all."""
        return sum(self.counts.values())

    @property
    def all_done(self) -> bool:
        """Whether nothing was rejected or failed, and the archive shows what was pushed."""
        return not self.counts.keys() & {"rejected", "failed", "unconfirmed"}


def run_round_trip(trip: RoundTrip, segment: SegmentFolder) -> Summary:
    """Pull, segment and push what a query finds, whatever happens to any one study.

    After an interruption the same call continues: nothing is pushed twice, nothing complete is
    done again. Series that failed are tried again; those that were rejected are not.

    Args:
        trip: From where to where.
        segment: Called with the folder of each study.

    Raises:
        ArchiveError: If an archive cannot be reached or is gone for good, or the disk is full.
        ConfigError: If the output folder cannot be used, or another run uses it.
    """
    folders = WorkFolders(trip.out)
    with folders.locked(), quiet_libraries(), Ledger(folders.journal) as ledger:
        for archive in filter(None, (trip.source, trip.target)):
            archive.check()
        work = find_work(trip.source, trip.query, trip.limit, ledger)
        asked = _note_work(work, ledger, trip.recipe)
        studies, study_uids = work.studies, {*(s.study_uid for s in work.studies), *work.troubled}
        target = "" if trip.target is None else trip.target.name
        ledger.begin_run(platform.node(), os.getpid(), study_uids, target)
        steps = Steps(ledger, trip.target, trip.out, segment)
        try:
            with work_begun():
                for study in track(studies, "Looking for changes", len(studies)):
                    steps.look(study, partial(changed_series, trip.source))
                to_do = [study for study in studies if not steps.is_ended(study)]
                if not trip.keep:
                    folders.remove_others({study.name for study in to_do})
                if to_do:
                    _Line(trip, folders, steps).run(to_do)
        finally:
            ledger.end_run()
            write_table(ledger, trip.out)
        return Summary(len(study_uids), len(studies) - len(to_do), ledger.counts(asked))


def _note_work(work: Work, ledger: Ledger, recipe: str) -> list[str]:
    """Note what is to be done, and what cannot be; return the UIDs of the series, or their like."""
    asked: list[str] = []
    for study in work.studies:
        ledger.clear_trouble(study.study_uid)
        ledger.queue(study.study_uid, study.series, recipe)
        asked += study.series
    for study_uid, reason in work.troubled.items():
        asked.append(ledger.note_trouble(study_uid, reason))
        logger.warning("study %s failed: %s", ledger.name_of(study_uid), reason)
    return asked


class _Line:
    """Two studies at a time: one is segmented and pushed, the next one is pulled."""

    def __init__(self, trip: RoundTrip, folders: WorkFolders, steps: Steps) -> None:
        self._trip, self._folders, self._steps = trip, folders, steps
        self._stop = threading.Event()

    def run(self, studies: Sequence[WantedStudy]) -> None:
        """Bring each study to its end; there is at least one."""
        with make_progress() as progress, self._puller() as puller:
            task = progress.add_task("Studies", total=len(studies), note="")
            ahead = self._start(studies[0], puller)
            for index, study in enumerate(studies):
                pulled = ahead
                if index + 1 < len(studies):
                    ahead = self._start(studies[index + 1], puller)
                progress.update(task, note=f"{index + 1} of {len(studies)}: {study.name}")
                self._finish(study, pulled, puller, progress)
                progress.advance(task)
            self._steps.confirm(studies)

    def _start(self, study: WantedStudy, puller: ThreadPoolExecutor) -> Future[Pulled] | None:
        if not self._steps.needs_pull(study):
            return None
        incoming = self._folders.incoming
        return puller.submit(pull_study, study, self._trip.source, incoming, self._stop)

    def _finish(
        self,
        study: WantedStudy,
        pulled: Future[Pulled] | None,
        puller: ThreadPoolExecutor,
        progress: Progress,
    ) -> None:
        self._steps.begin(study)
        if pulled is not None:
            folder = self._steps.take(study, pulled)
            if folder is not None:
                with _bar_off(progress):
                    self._steps.segment(study, folder)
                # By the one who uses the source: it is one thread's.
                self._steps.look_again(
                    study,
                    lambda *of: puller.submit(changed_series, self._trip.source, *of).result(),
                )
        self._steps.push(study)
        if not self._trip.keep:
            self._folders.remove(study.name)

    @contextmanager
    def _puller(self) -> Iterator[ThreadPoolExecutor]:
        puller = ThreadPoolExecutor(1, "pull")
        try:
            yield puller
        finally:
            self._stop.set()
            self._trip.source.hurry()
            puller.shutdown(cancel_futures=True)


@contextmanager
def _bar_off(progress: Progress) -> Iterator[None]:
    """Leave the console to the bar of the segmentation: there is room for one."""
    progress.stop()
    try:
        yield
    finally:
        progress.start()
