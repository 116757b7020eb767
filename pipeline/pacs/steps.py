"""The steps of one study, pushed and believed only when the archive shows it.

An archive may list what it took some time later. What was sent is noted, and asked for before it
would be sent again: it is not, for as long as the archive may still come to list it.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from itertools import chain, repeat
from pathlib import Path
from typing import TypeAlias

from pipeline.errors import PipelineError, StudyError
from pipeline.pacs.instance import Basis, key_of, pixels_sha256, read_whole
from pipeline.pacs.ledger import Entry, Ledger
from pipeline.pacs.pull import Pulled, WantedStudy
from pipeline.pacs.segmenter import Result, SegmentFolder
from pipeline.pacs.transport import InstanceKey, PatientArchive, TransferError

LOST_S = 24 * 3600.0
"""What an archive took and has not listed after so long is taken for lost, and sent again."""


def push_products(products: Sequence[Path], archive: PatientArchive, ledger: Ledger) -> str:
    """Store DICOM files that are not in the archive yet, and ask whether they are then.

    Args:
        products: Each is asked for before, by the UID in it: an earlier run may have pushed it.
        archive: Where to.
        ledger: Knows what was sent.

    Returns:
        Why it is not sure yet that the archive has them all; empty if it shows them.

    Raises:
        TransferError: If a file is torn, or the archive refuses it, or has other pixels under its
            UID.
        ArchiveError: If the archive is gone.
    """
    unsure = ""
    for number, path in enumerate(products, start=1):
        what = f"product {number} of {len(products)}"
        unsure = _push_one(path, what, archive, ledger) or unsure
    return unsure


def _push_one(path: Path, what: str, archive: PatientArchive, ledger: Ledger) -> str:
    dataset = read_whole(path)
    if dataset is None:
        remedy = "Remove it and run the same command."
        raise TransferError(what, "the file is torn or no DICOM file", remedy)
    instance = key_of(dataset)
    if not archive.has(instance):
        if not _may_come(instance, archive, ledger):
            ledger.note_sent(instance.instance_uid, archive.name, is_accepted=False)
            archive.push(instance, path)
            ledger.note_sent(instance.instance_uid, archive.name, is_accepted=True)
        if not archive.has(instance):
            return f"{what} is not listed"
    try:
        stored = archive.stored_pixels(instance)
    except TransferError as error:
        return f"{what} is listed, but not to be had: {error.found}"
    if stored is not None and stored != pixels_sha256(dataset):
        remedy = "Look at it in the archive: it was changed, or is another one's."
        raise TransferError(what, "the archive has other pixels under its UID", remedy)
    return ""


def _may_come(instance: InstanceKey, archive: PatientArchive, ledger: Ledger) -> bool:
    """Say whether an instance was sent, and may still be listed without being sent again."""
    sent = ledger.sent(instance.instance_uid, archive.name)
    if sent is None:
        return False
    age_s = time.time() - sent.sent_at
    return 0 <= age_s < (LOST_S if sent.is_accepted else sum(archive.patience.waits_s))


logger = logging.getLogger(__name__)

_PRODUCT, _MASK = "_seg.dcm", "_seg.nii.gz"
"""How the names of a segmentation and of the mask that it is made of end."""

AskChanged: TypeAlias = Callable[[Mapping[str, Basis], str], dict[str, Basis]]
"""As `changed_series`, of a study's UID."""


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
        self._held_back: set[str] = set()

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

    def look(self, study: WantedStudy, ask: AskChanged) -> None:
        """Open again what was decided on other instances than the archive lists now.

        With a series that has changed go those of its study that were not segmented, since the
        choice among them may be another one now.

        Args:
            study: To look at.
            ask: Asks the source.

        Raises:
            ArchiveError: If the archive is gone.
        """
        decided = [entry for entry in self._entries(study) if self._is_decided(entry)]
        unknown = Basis(0, "")
        bases = {entry.series_uid: entry.basis or unknown for entry in decided}
        try:
            changed = ask(bases, study.study_uid)
        except TransferError as error:
            self._hold_back(decided, f"not looked at: {error}")
            return
        for entry in decided:
            if entry.state == "failed":
                # Only its push did.
                self._ledger.mark(entry.series_uid, "segmented", products=entry.products)
            if entry.basis is None:
                # Decided by an earlier version: from now on it is known.
                self._ledger.note_basis(entry.series_uid, changed.pop(entry.series_uid))
        for entry in decided:
            now = changed.get(entry.series_uid)
            if now is not None and entry.basis is not None:
                logger.warning(
                    "series %s %s: it is done anew; what was pushed of it stays in the archive",
                    entry.name,
                    _what_changed(entry, now),
                )
            if now is not None or (changed and entry.state in ("unchosen", "rejected")):
                self._ledger.reopen(entry.series_uid)

    def look_again(self, study: WantedStudy, ask: AskChanged) -> None:
        """Before something is pushed: make sure that no series has grown while it was segmented.

        Args:
            study: That was segmented.
            ask: Asks the source.

        Raises:
            ArchiveError: If the archive is gone.
        """
        fresh = [entry for entry in self._open_entries(study) if entry.state == "segmented"]
        bases = {entry.series_uid: entry.basis for entry in fresh if entry.basis is not None}
        try:
            changed = ask(bases, study.study_uid)
        except TransferError as error:
            self._hold_back(fresh, f"not looked at again: {error}")
            return
        for entry in fresh:
            if entry.series_uid in changed:
                what = _what_changed(entry, changed[entry.series_uid])
                reason = f"not pushed: {what} meanwhile. Run the same command when all are there."
                self._ledger.mark(entry.series_uid, "failed", reason)
                logger.warning("series %s failed: %s", entry.name, reason)

    def take(self, study: WantedStudy, pulled: Future[Pulled]) -> Path | None:
        """Wait until the study is pulled; None if it cannot be.

        Raises:
            ArchiveError: If no study can be.
        """
        try:
            result = pulled.result()
        except TransferError as error:
            self._mark_all(study, Result("", "", "failed", f"not pulled: {error}"))
            return None
        for entry in self._open_entries(study):
            self._ledger.note_basis(entry.series_uid, result.bases[entry.series_uid])
            self._ledger.mark(entry.series_uid, "pulled", products=entry.products)
        return result.folder

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
            if self._has_products(entry) and entry.series_uid not in self._held_back:
                self._push_one(entry, self._target)

    def confirm(self, studies: Sequence[WantedStudy]) -> None:
        """Ask for a while for what was pushed and is not listed yet.

        Raises:
            ArchiveError: If the archive is gone.
        """
        if self._target is None:
            return
        patience, began = self._target.patience, time.monotonic()
        waits_s = chain(patience.waits_s, repeat(patience.waits_s[-1] if patience.waits_s else 1.0))
        while self._unconfirmed(studies):
            left_s = patience.listing_s - (time.monotonic() - began)
            if left_s <= 0:
                return
            self._target.wait(min(next(waits_s), left_s))
            for entry in self._unconfirmed(studies):
                self._push_one(entry, self._target)

    def _unconfirmed(self, studies: Sequence[WantedStudy]) -> list[Entry]:
        found = [entry for study in studies for entry in self._open_entries(study)]
        return [entry for entry in found if entry.state == "unconfirmed"]

    def _push_one(self, entry: Entry, target: PatientArchive) -> None:
        products = [self._out / product for product in entry.products]
        try:
            unsure = push_products(products, target, self._ledger)
        except TransferError as error:
            self._fail([entry], f"not pushed: {error}")
            return
        if not unsure:
            self._ledger.mark_pushed(entry.series_uid, target.name)
            return
        reason = (
            f"pushed, not confirmed: {unsure}. Run the same command later: it asks, and pushes "
            f"again what is not listed after {LOST_S / 3600:g} hours."
        )
        if (entry.state, entry.reason) != ("unconfirmed", reason):
            self._ledger.mark(entry.series_uid, "unconfirmed", reason, entry.products)

    def _fail(self, entries: Sequence[Entry], reason: str) -> None:
        for entry in entries:
            self._ledger.mark(entry.series_uid, "failed", reason, entry.products)
            logger.warning("series %s failed: %s", entry.name, reason)

    def _hold_back(self, entries: Sequence[Entry], reason: str) -> None:
        """Fail what may have changed: it is neither pushed in this run nor done anew."""
        self._held_back.update(entry.series_uid for entry in entries)
        self._fail(entries, reason)

    def _is_decided(self, entry: Entry) -> bool:
        """Say whether an entry holds something that would not be done anew."""
        if self._is_overtaken(entry):
            return False
        return entry.state in ("rejected", "unchosen", "pushed") or self._has_products(entry)

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


def _what_changed(entry: Entry, now: Basis) -> str:
    before = 0 if entry.basis is None else entry.basis.num_instances
    if before == now.num_instances:
        return f"has {before} other instances than before"
    return f"had {before} instances and has {now.num_instances}"
