"""Refine a segmentation that anybody made, by the image it was made of.

`refine_files()` reads image and segmentation, moves boundaries to where the image has them by the
conditional random field of `pipeline.postprocessing.crf`, and writes mask, record and picture.
"""

from pipeline.refinement.inputs import Kind, Outputs, RefinementConfig
from pipeline.refinement.record import LabelChange, RefinementRecord, describe_refinement
from pipeline.refinement.run import Request, refine_files

__all__ = [
    "Kind",
    "LabelChange",
    "Outputs",
    "RefinementConfig",
    "RefinementRecord",
    "Request",
    "describe_refinement",
    "refine_files",
]
