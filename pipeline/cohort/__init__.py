"""Segment many studies: find them in what the user named, and let no bad one stop the rest.

A journal says where each study stands: studies in = done + corrected + rejected + failed, whatever
killed the run on the way. A result counts when its provenance file, which is written last, matches
its input, the model, the settings and the bytes of its outputs; and a mask that a person corrected
counts as it is.
"""

from pipeline.cohort.bids import BidsChoice
from pipeline.cohort.check import check_inputs
from pipeline.cohort.dicom_inputs import DicomOptions, dicom_options
from pipeline.cohort.events import Event, Lost, Workers
from pipeline.cohort.gate import adopt_study
from pipeline.cohort.inputs import DataRoot, find_studies, tell_unlisted
from pipeline.cohort.naming import load_salt, write_key
from pipeline.cohort.options import Replace, SegmentOptions
from pipeline.cohort.request import RemoteJob, Request
from pipeline.cohort.run import CohortResult, run_cohort, segment_cohort
from pipeline.cohort.study_input import StudyInput
from pipeline.journal import Row, Status

__all__ = [
    "BidsChoice",
    "CohortResult",
    "DataRoot",
    "DicomOptions",
    "Event",
    "Lost",
    "RemoteJob",
    "Replace",
    "Request",
    "Row",
    "SegmentOptions",
    "Status",
    "StudyInput",
    "Workers",
    "adopt_study",
    "check_inputs",
    "dicom_options",
    "find_studies",
    "load_salt",
    "run_cohort",
    "segment_cohort",
    "tell_unlisted",
    "write_key",
]
