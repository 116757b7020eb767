"""Segment many studies: find them in what the user named, and let no bad one stop the rest.

A journal says where each study stands: studies in = done + rejected + failed, whatever killed the
run on the way. A result counts when its provenance file, which is written last, matches its input,
the model, the settings and the bytes of its outputs.
"""

from pipeline.cohort.bids import BidsChoice
from pipeline.cohort.check import check_inputs
from pipeline.cohort.inputs import find_studies
from pipeline.cohort.options import SegmentOptions
from pipeline.cohort.request import RemoteJob, Request
from pipeline.cohort.run import CohortResult, run_cohort, segment_cohort
from pipeline.cohort.study_input import StudyInput
from pipeline.journal import Row, Status

__all__ = [
    "BidsChoice",
    "CohortResult",
    "RemoteJob",
    "Request",
    "Row",
    "SegmentOptions",
    "Status",
    "StudyInput",
    "check_inputs",
    "find_studies",
    "run_cohort",
    "segment_cohort",
]
