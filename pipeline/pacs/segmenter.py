"""Segment a pulled study as `trivox segment` does, into the same output folder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from pipeline.cohort import Event, Lost, Request, Row, Workers, run_cohort
from pipeline.errors import ConfigError
from pipeline.inputs import DicomOptions, find_studies, write_key
from pipeline.study import DicomSeries, StudyInput

Outcome: TypeAlias = Literal["done", "rejected", "failed"]


@dataclass(frozen=True)
class Result:
    """What became of one series of a study.

    Attributes:
        case: Its name in the output folder; identifies no patient.
        series_uid: Its Series Instance UID.
        status: `done`; `rejected`, if the input is to blame; `failed`, if anything else is.
        reason: Why it was not done; no patient data.
        products: DICOM files to store in the archive.
    """

    case: str
    series_uid: str = field(repr=False)
    status: Outcome
    reason: str = ""
    products: tuple[Path, ...] = ()


class SegmentFolder(Protocol):
    """Segments a study: chooses among its series and returns a result for each that it looked at.

    Called again with the same study, after an interruption, it returns the same products: those
    that are complete are not made anew, since a new one would be another object to the archive.
    """

    def __call__(self, folder: Path) -> list[Result]:
        """Segment the study in a folder, which has a folder of DICOM files for each series."""
        ...


class CohortSegmenter:
    """Segments a study with a trained model; what is complete in the output folder stays.

    The workers stay from study to study, so that the model is loaded once.

    Args:
        request: What to do with each study.
        dicom: How to choose and name series.
        start_workers: Starts those who segment, when the first study needs them.
    """

    def __init__(
        self, request: Request, dicom: DicomOptions, start_workers: Callable[[], Workers]
    ) -> None:
        self._request, self._dicom, self._start = request, dicom, start_workers
        self._workers: Workers | None = None

    def __call__(self, folder: Path) -> list[Result]:
        """Segment what can be chosen in a study's folder."""
        try:
            # The folder lies in the output folder, which else would not be searched.
            studies = find_studies(
                [folder],
                num_channels=len(self._request.description.channels),
                out=None,
                dicom=self._dicom,
            )
        except ConfigError as error:
            # Nothing to segment in one study must not end the run. The folder's name says nothing.
            return [Result("", "", "rejected", f"{error.found}. {error.remedy}")]
        write_key(self._request.out, studies)
        done = run_cohort(studies, self._request, self._lasting_workers)
        return [self._result(*pair) for pair in zip(studies, done.rows, strict=True)]

    def close(self) -> None:
        """End the workers."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None

    def _lasting_workers(self) -> Workers:
        if self._workers is None:
            self._workers = self._start()
        return _Lasting(self._workers, self.close)

    def _result(self, study: StudyInput, row: Row) -> Result:
        source = study.sources[0]
        # A refused study has all its series as sources; none of them is the one to blame.
        is_one = isinstance(source, DicomSeries) and len(study.sources) == 1
        uid = source.uid if isinstance(source, DicomSeries) and is_one else ""
        if row.status == "rejected" or row.status == "failed":
            return Result(row.case, uid, row.status, row.reason)
        wanted = self._request.options.wanted(study, self._request.out)
        products = tuple(path for kind, path in wanted.items() if kind.startswith("dicom"))
        return Result(row.case, uid, "done", products=products)


class _Lasting:
    """Workers that outlive a run, unless it ended before its studies did."""

    def __init__(self, workers: Workers, end: Callable[[], None]) -> None:
        self._workers, self._end = workers, end
        self._num_in_hand = 0

    @property
    def capacity(self) -> int:
        return self._workers.capacity

    def give(self, study: StudyInput) -> None:
        self._num_in_hand += 1
        self._workers.give(study)

    def wait(self) -> Sequence[Event]:
        events = self._workers.wait()
        for event in events:
            if isinstance(event, Row):
                self._num_in_hand -= 1
            elif isinstance(event, Lost):
                self._num_in_hand -= len(event.cases)
        return events

    def close(self) -> Sequence[Event]:
        if self._num_in_hand:
            self._end()
        return []
