"""The whole way of a study to its mask: `Segmenter`, or `segment_study` for one.

The command line, the cohort runner and the validation during training all take this path.
"""

from pipeline.segmentation.segmenter import NOTHING_FOUND, Advance, Segmenter, segment_study
from pipeline.segmentation.study import STAGES, Prediction, PreparedStudy, Segmentation

__all__ = [
    "NOTHING_FOUND",
    "STAGES",
    "Advance",
    "Prediction",
    "PreparedStudy",
    "Segmentation",
    "Segmenter",
    "segment_study",
]
