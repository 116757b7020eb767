"""The steps of one study, each noted in the ledger when it is done and not before."""

import logging
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path

from pipeline.archive.ledger import Entry, Ledger
from pipeline.archive.pull import WantedStudy
from pipeline.archive.push import push_products
from pipeline.archive.retry import PatientArchive
from pipeline.archive.segmenter import Result, SegmentFolder
from pipeline.archive.transport import TransferError
from pipeline.errors import PipelineError, StudyError

logger = logging.getLogger(__name__)

_PRODUCT, _MASK = "_seg.dcm", "_seg.nii.gz"
"""How the names of a segmentation and of the mask that it is made of end."""


class Steps:
    """Pulled, segmented, pushed: what that means for a study's entries in the ledger.

    Args:
        ledger: The journal.
        target: Archive to push to; None: nothing is pushed.
        out: Output folder.
        segment: Makes the products.
    """

    def __init__(
        self, ledger: Ledger, target: PatientArchive | None, out: Path, segment: SegmentFolder
    ) -> None:
        self._ledger, self._target, self._out, self._segment = ledger, target, out, segment

    def is_ended(self, study: WantedStudy) -> bool:
        """Say whether nothing is left to do."""
        return all(self._has_ended(entry) for entry in self._entries(study))

    def needs_pull(self, study: WantedStudy) -> bool:
        """Say whether the study's files are needed, rather than only its results."""
        return not all(
            self._has_ended(entry) or self._has_products(entry) for entry in self._entries(study)
        )

    def begin(self, study: WantedStudy) -> None:
        """Count an attempt."""
        self._ledger.begin(study.study_uid)

    def take(self, study: WantedStudy, pulled: Future[Path]) -> Path | None:
        """Wait until the study is pulled; None if it cannot be.

        Raises:
            ArchiveError: If no study can be.
        """
        try:
            folder = pulled.result()
        except TransferError as error:
            self._mark_all(study, Result("", "", "failed", f"not pulled: {error}"))
            return None
        for entry in self._open_entries(study):
            self._ledger.mark(entry.series_uid, "pulled", products=entry.products)
        return folder

    def segment(self, study: WantedStudy, folder: Path) -> None:
        """Segment what was pulled, and note what became of each series.

        Raises:
            PipelineError: If the model, the disk, the journal or the workers are to blame, not the
                study.
            OSError: The same.
        """
        try:
            results = self._segment(folder)
        except StudyError as error:
            results = [Result("", "", "failed", str(error))]
        except (PipelineError, OSError):
            raise
        except Exception as error:
            # Whatever it is, the other studies go on. Texts that are not ours may hold a name.
            logger.debug("%s failed", study.name, exc_info=True)
            results = [Result("", "", "failed", type(error).__name__)]
        self._note(study, {result.series_uid: result for result in results})

    def push(self, study: WantedStudy) -> None:
        """Push what was made of the study's series and is not in the archive.

        Raises:
            ArchiveError: If the archive is gone.
        """
        if self._target is None:
            return
        for entry in self._open_entries(study):
            if not self._has_products(entry):
                continue
            try:
                push_products([self._out / product for product in entry.products], self._target)
            except TransferError as error:
                reason = f"not pushed: {error}"
                self._ledger.mark(entry.series_uid, "failed", reason, entry.products)
                logger.warning("series %s failed: %s", entry.name, reason)
            else:
                self._ledger.mark_pushed(entry.series_uid, self._target.name)

    def _note(self, study: WantedStudy, results: Mapping[str, Result]) -> None:
        nothing = Result("", "", "rejected", "none of the study's series was segmented")
        of_the_rest = results.get("") if results else nothing
        for entry in self._open_entries(study):
            result = results.get(entry.series_uid, of_the_rest)
            if result is None:
                self._ledger.mark(entry.series_uid, "unchosen")
            else:
                self._note_one(entry, result)

    def _note_one(self, entry: Entry, result: Result) -> None:
        if result.status != "done":
            self._ledger.mark(entry.series_uid, result.status, result.reason)
            logger.warning("series %s %s: %s", entry.name, result.status, result.reason)
            return
        products = [str(path.relative_to(self._out)) for path in result.products]
        if self._target is not None and not products:
            reason = "there is a mask but no DICOM file to push"
            self._ledger.mark(entry.series_uid, "failed", reason)
            return
        self._ledger.mark(entry.series_uid, "segmented", products=products)

    def _mark_all(self, study: WantedStudy, result: Result) -> None:
        self._note(study, {"": result})

    def _entries(self, study: WantedStudy) -> list[Entry]:
        found = self._ledger.entries(study.study_uid)
        return [entry for entry in found if entry.series_uid in study.series]

    def _open_entries(self, study: WantedStudy) -> list[Entry]:
        return [entry for entry in self._entries(study) if not self._has_ended(entry)]

    def _has_ended(self, entry: Entry) -> bool:
        if entry.state in ("rejected", "unchosen"):
            return True
        if self._is_overtaken(entry):
            return False
        if self._target is None:
            return entry.state in ("segmented", "pushed")
        return entry.state == "pushed" and entry.target == self._target.name

    def _has_products(self, entry: Entry) -> bool:
        """Say whether a series waits only for being pushed."""
        if self._is_overtaken(entry):
            return False
        files = [self._out / product for product in entry.products]
        return bool(files) and all(file.is_file() for file in files)

    def _is_overtaken(self, entry: Entry) -> bool:
        """Say whether a mask was changed after its products were made, by a person.

        Times tell, whatever was copied over it; if the voxels are the same nevertheless, so are the
        products, and nothing is pushed twice.
        """
        for product in entry.products:
            mask = (self._out / product).with_name(Path(product).name.replace(_PRODUCT, _MASK))
            if mask.name != Path(product).name and mask.is_file():
                times = mask.stat()
                if max(times.st_mtime, times.st_ctime) > entry.changed_at:
                    return True
        return False
