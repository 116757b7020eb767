"""Give studies to workers, keep the journal of what becomes of them, and show how far they are."""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rich.progress import Progress, TaskID

from pipeline.cohort.attempt import cause_of
from pipeline.cohort.events import Began, Event, Lost, Steps, Workers
from pipeline.cohort.previous import (
    ALREADY_COMPLETE,
    find_gone,
    sign,
    stamp_input,
    warn_of_namesakes,
)
from pipeline.cohort.request import Request
from pipeline.errors import PipelineError, work_begun
from pipeline.journal import Entry, Journal, Row, write_tables
from pipeline.output.places import Outputs
from pipeline.study import Stamp, stamp
from pipeline.study.input import StudyInput
from pipeline.system.disk import in_one_line
from pipeline.system.private import Held

logger = logging.getLogger(__name__)

TABLES_EVERY_S = 15.0
"""How old the tables may be while a run goes on."""


@dataclass(frozen=True)
class _InHand:
    """A study that was given to the workers, and its files' stamp from before."""

    study: StudyInput
    stamp: Stamp | None


class Supervisor:
    """One run over the studies of a cohort.

    Args:
        studies: All of them, with unique names.
        request: What to do with each.
        journal: Of the output folder.
        run: Its number in the journal.
        progress: To show how far it is.
        held: The output folder, as it was locked.
    """

    def __init__(
        self,
        studies: Sequence[StudyInput],
        request: Request,
        journal: Journal,
        run: int,
        progress: Progress,
        held: Held,
    ) -> None:
        self._studies, self._request, self._journal, self._run = studies, request, journal, run
        self._held, self._is_lost = held, False
        self._method, self._gate = request.method, request.gate
        self._rows: dict[str, Row] = {}
        self._waiting: deque[StudyInput] = deque()
        self._alone: deque[StudyInput] = deque()
        self._tried_alone: set[str] = set()
        self._in_hand: dict[str, _InHand] = {}
        self._full = ""
        self._gone: frozenset[str] = frozenset()
        self._show = _Display(progress)
        self._tables_at = time.monotonic()

    def run(self, start_workers: Callable[[], Workers]) -> tuple[Row, ...]:
        """Bring every study to its end and return what became of each, in their order.

        Raises:
            PipelineError: If the disk is full, the output folder is no longer the one that the run
                began in, or the workers cannot be started.
        """
        self._sort()
        num_ended = len(self._rows)
        self._show.begin(len(self._studies), num_ended)
        try:
            if self._waiting or self._alone:
                self._work(start_workers())
            self._check_masks()
        except PipelineError as error:
            # What is gone is behind whatever else goes wrong then.
            self._check_place()
            error.exit_code = 1 if len(self._rows) > num_ended else error.exit_code
            raise
        finally:
            if not self._is_lost:
                self._check_place()
                self._journal.end_run(self._run)
                self._write_tables()
        if self._full:
            found = f"{len(self._rows)} of {len(self._studies)} studies ended; then: {self._full}"
            remedy = "Then run the same command again: it goes on from here."
            with work_begun():
                raise PipelineError(self._request.out, found, remedy)
        return tuple(self._rows[study.case] for study in self._studies)

    def _sort(self) -> None:
        """Tell the studies that are complete from those to do, and from those to do alone."""
        known = {entry.name: entry for entry in self._journal.entries()}
        sources = {study.case: study.places() for study in self._studies}
        warn_of_namesakes(known, sources)
        self._gone = find_gone(known.values(), sources, self._request.out)
        self._journal.ask_for(self._run, sources)
        for study in self._studies:
            entry = known.get(study.case)
            row = None if entry is None else self._complete(study, entry)
            if row is not None:
                self._rows[study.case] = row
            elif entry is not None and entry.state == "running":
                self._alone.append(study)
            else:
                self._waiting.append(study)
        self._journal.queue([study.case for study in (*self._waiting, *self._alone)])

    def _complete(self, study: StudyInput, entry: Entry) -> Row | None:
        """Return what became of a study, if nothing has changed since."""
        row = entry.row
        if row is None or row.status == "failed" or row.cause or not entry.signature:
            return None
        if row.status == "corrected" and self._request.options.replace.covers(study.case):
            return None
        if entry.signature != self._sign(study, row, stamp_input(study)):
            return None
        return replace(row, reason=ALREADY_COMPLETE) if row.status == "done" else row

    def _work(self, workers: Workers) -> None:
        try:
            while not self._full and self._fill(workers):
                for event in workers.wait():
                    self._handle(event)
                self._check_place()
        finally:
            for event in workers.close():
                if not isinstance(event, Lost):
                    self._handle(event)

    def _fill(self, workers: Workers) -> bool:
        """Give the workers what they can take; tell whether anything is left to wait for."""
        while self._waiting and len(self._in_hand) < workers.capacity:
            self._give(self._waiting.popleft(), workers)
        if self._alone and not self._waiting and not self._in_hand:
            study = self._alone.popleft()
            self._tried_alone.add(study.case)
            self._give(study, workers)
        return bool(self._in_hand)

    def _give(self, study: StudyInput, workers: Workers) -> None:
        self._in_hand[study.case] = _InHand(study, stamp_input(study))
        self._journal.begin(study.case)
        workers.give(study)

    def _check_place(self) -> None:
        """Make sure that journal, lock and masks are in one folder still.

        Raises:
            PipelineError: If they are not; nothing is entered or written then.
        """
        self._is_lost = True
        self._held.check((self._journal.path, self._journal.found))
        self._is_lost = False

    def _check_masks(self) -> None:
        """Make sure that what is called done has its mask still."""
        for study in self._studies:
            row = self._rows.get(study.case)
            if row and row.has_mask and not Outputs.of(self._request.out, study).mask.exists():
                reason = "Its mask was removed while the run went on. Run the same command again."
                logger.warning("%s failed: %s", study.case, reason)
                self._rows[study.case] = row = Row(study.case, "failed", reason, cause="transient")
                self._journal.put(self._run, row, "")

    def _handle(self, event: Event) -> None:
        if self._is_lost:
            return
        match event:
            case Began(case, stage, device):
                self._journal.enter_stage(case, stage, device)
                if stage == "segment":
                    self._show.study(case)
            case Steps(what, done, total):
                self._show.steps(what, done, total)
            case Lost(cases, reason):
                for case in cases:
                    self._lose(case, reason)
            case Row():
                self._finish(event)

    def _lose(self, case: str, reason: str) -> None:
        if case in self._tried_alone:
            text = f"{reason} while it worked on this study alone"
            logger.warning("%s failed: %s", case, text)
            self._finish(Row(case, "failed", text))
            return
        logger.warning("%s: %s; it is tried again later, alone", case, reason)
        self._alone.append(self._in_hand.pop(case).study)
        self._journal.queue([case])

    def _finish(self, row: Row) -> None:
        in_hand = self._in_hand.pop(row.case)
        if row.cause == "disk_full":
            # The next study would fail as well; all of them can be done when there is space.
            self._full = row.reason
            self._journal.queue([row.case])
            return
        self._rows[row.case] = row
        entered = replace(row, reason="") if row.status == "done" else row
        signature = self._sign(in_hand.study, entered, in_hand.stamp)
        self._journal.put(self._run, entered, signature)
        self._show.ended(row)
        if time.monotonic() - self._tables_at > TABLES_EVERY_S:
            self._write_tables()

    def _sign(self, study: StudyInput, row: Row, inputs: Stamp | None) -> str:
        """Return what a result is known by; a mask that is not ours can lie beside a rejection."""
        out = self._request.out
        outputs = Outputs.of(out, study)
        wanted = self._request.options.wanted(study, out)
        if row.status == "done":
            return sign(self._method, row, inputs, stamp([outputs.provenance, *wanted.values()]))
        if row.status == "corrected":
            made_of_it = [path for kind, path in wanted.items() if kind.startswith("dicom")]
            return sign(self._method, row, inputs, stamp([outputs.mask, *made_of_it]))
        # The same files may be refused for another reason, or for none, by other words.
        method = f"{self._gate}{study.refusal or ''}"
        return sign(method, row, inputs, stamp([outputs.mask]) or [])

    def _write_tables(self) -> None:
        entries = [entry for entry in self._journal.entries() if entry.name not in self._gone]
        rows = [entry.row for entry in entries if entry.row is not None]
        try:
            write_tables(rows, self._request.labels, self._request.out)
        except OSError as error:
            if cause_of(error) != "disk_full":
                raise
            self._full = in_one_line(error)
        self._tables_at = time.monotonic()


class _Display:
    """A bar for the cohort, and one for a study that takes long."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}
        self._num_bad = 0
        self._case = ""

    def begin(self, total: int, completed: int) -> None:
        """Show the cohort's bar; what was complete before counts for no speed."""
        task = self._progress.add_task("Segmenting", total=total, completed=completed, note="")
        self._cohort = task

    def study(self, case: str) -> None:
        """Show what is being segmented."""
        self._case = case
        self._note()

    def ended(self, row: Row) -> None:
        """Count a study."""
        self._num_bad += not row.has_mask
        self._progress.advance(self._cohort)
        self._note()

    def steps(self, what: str, done: int, total: int) -> None:
        """Show the steps of a study until the last is done."""
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(f"  {what}", total=total, note="")
        self._progress.update(self._tasks[what], completed=done)
        if done == total:
            self._progress.remove_task(self._tasks.pop(what))

    def _note(self) -> None:
        bad = f"  {self._num_bad} not done" if self._num_bad else ""
        self._progress.update(self._cohort, note=f"{self._case}{bad}")
