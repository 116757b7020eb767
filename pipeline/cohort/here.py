"""Segment in this very process: for callers that hold a model, and for tests."""

from collections.abc import Sequence

from pipeline.cohort.events import Event
from pipeline.cohort.job import Job
from pipeline.cohort.line import LENGTH, Line
from pipeline.cohort.study_input import StudyInput


class Here:
    """Workers without a process of their own: what ends this process ends the cohort's run.

    Args:
        job: What the studies share.
    """

    capacity = LENGTH

    def __init__(self, job: Job) -> None:
        self._events: list[Event] = []
        self._line = Line(job, self._events.append)

    def give(self, study: StudyInput) -> None:
        """Take one more study."""
        self._line.give(study)

    def wait(self) -> Sequence[Event]:
        """Bring the studies one step further."""
        self._line.step()
        return self._take()

    def close(self) -> Sequence[Event]:
        """Finish what is being written."""
        self._line.close()
        return self._take()

    def _take(self) -> Sequence[Event]:
        taken = self._events[:]
        del self._events[: len(taken)]
        return taken
