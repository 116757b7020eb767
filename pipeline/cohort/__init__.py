"""Segment many studies: find them in what the user named, and let no bad one stop the rest.

A journal says where each study stands: studies in = done + corrected + rejected + failed, whatever
killed the run on the way. A result counts when its provenance file, which is written last, matches
its input, the model, the settings and the bytes of its outputs; and a mask that a person corrected
counts as it is.
"""

from pipeline.cohort.check import check_inputs
from pipeline.cohort.events import Event, Lost, Workers
from pipeline.cohort.gate import adopt_study
from pipeline.cohort.request import RemoteJob, Replace, Request, SegmentOptions
from pipeline.cohort.run import CohortResult, run_cohort, segment_cohort
from pipeline.journal import Row, Status

__all__ = [
    "CohortResult",
    "Event",
    "Lost",
    "RemoteJob",
    "Replace",
    "Request",
    "Row",
    "SegmentOptions",
    "Status",
    "Workers",
    "adopt_study",
    "check_inputs",
    "run_cohort",
    "segment_cohort",
]
