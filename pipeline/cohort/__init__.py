"""Segment many studies: find them in what the user named, and let no bad one stop the rest.

A study counts as done when its provenance file, which is written last, matches its input, the
model, the settings and the bytes of its outputs. So a run that was killed continues where it was
when it is started again.
"""

from pipeline.cohort.check import check_inputs
from pipeline.cohort.dicom_inputs import DicomOptions, dicom_options
from pipeline.cohort.inputs import find_studies
from pipeline.cohort.naming import load_salt, write_key
from pipeline.cohort.options import SegmentOptions
from pipeline.cohort.run import CohortResult, segment_cohort
from pipeline.cohort.study_input import StudyInput
from pipeline.cohort.table import Row, Status

__all__ = [
    "CohortResult",
    "DicomOptions",
    "Row",
    "SegmentOptions",
    "Status",
    "StudyInput",
    "check_inputs",
    "dicom_options",
    "find_studies",
    "load_salt",
    "segment_cohort",
    "write_key",
]
