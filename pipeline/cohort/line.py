"""Three studies at a time, each at another stage.

While one study is segmented, the next one is loaded and the last one is written. With a GPU the
last one is cleaned beside it, too.
"""

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from pipeline.cohort.events import Alive, Began, Event, Steps
from pipeline.cohort.job import Job
from pipeline.cohort.stages import (
    Loaded,
    Predicted,
    Segmented,
    conclude,
    load,
    predict,
    segment,
    write,
)
from pipeline.cohort.study_input import StudyInput
from pipeline.journal import Row
from pipeline.study import extent_of

logger = logging.getLogger(__name__)

LENGTH = 3
"""Studies that a line works on at once."""


class Line:
    """Studies in, rows out.

    Args:
        job: What the studies share.
        report: Called with all that happens, also by other threads.
    """

    def __init__(self, job: Job, report: Callable[[Event], None]) -> None:
        self._job = replace(job, alive=lambda: report(Alive()))
        self._report = report
        self._waiting: deque[StudyInput] = deque()
        self._loader = ThreadPoolExecutor(1, "load")
        self._writer = ThreadPoolExecutor(1, "write")
        self._loading: dict[str, Future[Loaded | Row]] = {}
        self._writing: Future[None] | None = None
        self._written_bytes = 0

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._waiting and self._writing is None

    def give(self, study: StudyInput) -> None:
        """Take one more study."""
        self._waiting.append(study)

    def step(self) -> None:
        """Bring one more study to the point where it is being written, or finish the last one."""
        if not self._waiting:
            self._finish_writing()
            return
        study = self._waiting[0]
        loaded = self._load(study).result()
        del self._loading[study.case]
        self._waiting.popleft()
        result: Predicted | Segmented | Row = (
            loaded if isinstance(loaded, Row) else self._segment(study, loaded)
        )
        del loaded
        self._finish_writing()
        if isinstance(result, Row):
            self._report(result)
            return
        self._written_bytes = result.held_bytes
        if isinstance(result, Segmented):
            self._writing = self._writer.submit(self._write, result)
        else:
            self._writing = self._writer.submit(self._conclude, result)

    def close(self) -> None:
        """Finish what is being written, and drop the rest."""
        self._loader.shutdown(cancel_futures=True)
        self._finish_writing()
        self._writer.shutdown()

    def _segment(self, study: StudyInput, loaded: Loaded) -> Predicted | Segmented | Row:
        """Segment a study, and load the next one meanwhile if both fit in memory."""
        following = self._waiting[0] if self._waiting else None
        elsewhere = self._written_bytes + self._bytes_to_load(following)
        if not self._job.segmenter.fits(loaded.prepared, elsewhere):
            self._finish_writing()
            elsewhere = 0
        elif following is not None:
            self._load(following)
        self._report(Began(study.case, "segment"))
        stage = predict if self._job.segmenter.cleans_aside else segment
        return stage(loaded, self._job, elsewhere, self._show)

    def _load(self, study: StudyInput) -> Future[Loaded | Row]:
        if study.case not in self._loading:
            self._report(Began(study.case, "load"))
            self._loading[study.case] = self._loader.submit(load, study, self._job)
        return self._loading[study.case]

    def _bytes_to_load(self, study: StudyInput | None) -> int:
        if study is None or study.refusal is not None:
            return 0
        try:
            return self._job.segmenter.loading_bytes(*extent_of(study.sources))
        except Exception:
            # Whatever is wrong with the next study ends neither this one nor the process.
            logger.debug("%s cannot be looked at", study.case, exc_info=True)
            return 0

    def _conclude(self, predicted: Predicted) -> None:
        segmented = conclude(predicted, self._job)
        if isinstance(segmented, Row):
            self._report(segmented)
        else:
            self._write(segmented)

    def _write(self, segmented: Segmented) -> None:
        self._report(Began(segmented.input.case, "write"))
        self._report(write(segmented, self._job))

    def _finish_writing(self) -> None:
        if self._writing is not None:
            self._writing.result()
            self._writing, self._written_bytes = None, 0

    def _show(self, what: str, done: int, total: int) -> None:
        self._report(Steps(what, done, total))
