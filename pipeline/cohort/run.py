"""Segment studies in turn; each ends as done, rejected or failed, with a reason.

While one study is segmented, the next one is loaded and the last one is written.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.markup import escape
from rich.progress import Progress, TaskID

from pipeline.cohort.options import SegmentOptions
from pipeline.cohort.outputs import make_output_folder
from pipeline.cohort.stages import (
    ALREADY_COMPLETE,
    Job,
    Loaded,
    Segmented,
    load,
    segment,
    write,
)
from pipeline.cohort.study_input import StudyInput
from pipeline.cohort.table import CohortTable, Row, Status
from pipeline.model import Model
from pipeline.progress import make_progress
from pipeline.segmentation import Advance, Segmenter
from pipeline.study import extent_of

SHOWN_STEPS = 20
"""From this many windows or class groups on, a study has a progress bar of its own."""


@dataclass(frozen=True)
class CohortResult:
    """What became of the studies of one call.

    Attributes:
        rows: One row a study, in the order of the studies.
    """

    rows: tuple[Row, ...]

    @property
    def all_done(self) -> bool:
        """Whether every study has its mask."""
        return all(row.status == "done" for row in self.rows)

    @property
    def counts(self) -> dict[Status, int]:
        """Number of studies of each status."""
        found = Counter(row.status for row in self.rows)
        return {status: found[status] for status in ("done", "rejected", "failed")}

    @property
    def num_skipped(self) -> int:
        """Number of studies that were complete before, counted as done."""
        return sum(row.reason == ALREADY_COMPLETE for row in self.rows)


def segment_cohort(
    studies: Sequence[StudyInput],
    model: Model,
    out: Path,
    options: SegmentOptions,
    device: torch.device,
) -> CohortResult:
    """Segment `studies` into `out`, whatever happens to any one of them.

    `out/cohort.csv` is whole and current after every study. A study whose outputs are complete and
    match input, model and settings is skipped; what else lies under its name is replaced. After an
    interruption the same call continues.

    Args:
        studies: From `find_studies`; case names are unique.
        model: Its networks are copied to `device`.
        out: The output folder; created if needed.
        options: What to write, and what that may take.
        device: To compute on.

    Raises:
        ConfigError: If `out` cannot be written to.
        OSError: If `cohort.csv` cannot be written later on.
    """
    make_output_folder(out)
    job = Job(model, Segmenter(model, device, options.max_bytes), out, options)
    table = CohortTable(out / "cohort.csv")
    rows: list[Row] = []

    def finish(row: Row) -> None:
        rows.append(row)
        table.put(row)

    with make_progress() as progress, _Line(studies, job, finish) as line:
        task = progress.add_task("Segmenting", total=len(studies), note="")
        for number, study in enumerate(studies, start=1):
            progress.update(task, note=escape(f"{number} of {len(studies)}: {study.case}"))
            line.advance(number - 1, _bar_of_steps(progress))
            progress.advance(task)
        progress.update(task, note="")
    return CohortResult(tuple(rows))


class _Line:
    """Three studies at a time, each at another stage.

    Args:
        studies: All of them.
        job: What they share.
        finish: Called with the row of each study, in their order.
    """

    def __init__(
        self, studies: Sequence[StudyInput], job: Job, finish: Callable[[Row], None]
    ) -> None:
        self._studies, self._job, self._finish = studies, job, finish
        self._loader = ThreadPoolExecutor(1, "load")
        self._writer = ThreadPoolExecutor(1, "write")
        self._loading: dict[int, Future[Loaded | Row]] = {}
        self._writing: Future[Row] | None = None
        self._written_bytes = 0

    def __enter__(self) -> "_Line":
        return self

    def __exit__(self, *error: object) -> None:
        # What is being written is finished even after Ctrl-C; what is being loaded is dropped.
        self._loader.shutdown(cancel_futures=True)
        self._finish_writing()
        self._writer.shutdown()

    def advance(self, index: int, advance: Advance) -> None:
        """Bring one more study to the point where it is being written."""
        loaded = self._load(index).result()
        del self._loading[index]
        result: Segmented | Row = (
            loaded if isinstance(loaded, Row) else self._segment(index, loaded, advance)
        )
        # The table names studies in their order, so the one before comes first.
        self._finish_writing()
        if isinstance(result, Row):
            self._finish(result)
        else:
            self._written_bytes = result.held_bytes
            self._writing = self._writer.submit(write, result, self._job)

    def _segment(self, index: int, loaded: Loaded, advance: Advance) -> Segmented | Row:
        """Segment a study, and load the next one meanwhile if both fit in memory."""
        elsewhere = self._written_bytes + self._bytes_to_load(index + 1)
        if self._job.segmenter.fits(loaded.prepared, elsewhere):
            self._load(index + 1)
        else:
            self._finish_writing()
            elsewhere = 0
        return segment(loaded, self._job, elsewhere, advance)

    def _load(self, index: int) -> Future[Loaded | Row]:
        if index not in self._loading and index < len(self._studies):
            self._loading[index] = self._loader.submit(load, self._studies[index], self._job)
        return self._loading.get(index, Future())

    def _bytes_to_load(self, index: int) -> int:
        if index >= len(self._studies):
            return 0
        return self._job.segmenter.loading_bytes(*extent_of(self._studies[index].sources))

    def _finish_writing(self) -> None:
        if self._writing is not None:
            row = self._writing.result()
            self._writing, self._written_bytes = None, 0
            self._finish(row)


def _bar_of_steps(progress: Progress) -> Advance:
    """Return what shows the steps of a study, if they are many, until the last is done."""
    tasks: dict[str, TaskID] = {}

    def show(what: str, done: int, total: int) -> None:
        if total < SHOWN_STEPS:
            return
        if what not in tasks:
            tasks[what] = progress.add_task(f"  {what}", total=total, note="")
        progress.update(tasks[what], completed=done)
        if done == total:
            progress.remove_task(tasks.pop(what))

    return show
