"""Make a mask again from what its provenance says, and compare the two.

Nothing is made again unless input, model and recorded mask have the recorded content. Versions,
device and arithmetic may differ; they are listed, since they can change a mask.
"""

from pipeline.reproduction.run import (
    MaskComparison,
    Reproduction,
    Request,
    describe_reproduction,
    reproduce,
)
from pipeline.reproduction.sources import Locate, Sources, locate_by_journal

__all__ = [
    "Locate",
    "MaskComparison",
    "Reproduction",
    "Request",
    "Sources",
    "describe_reproduction",
    "locate_by_journal",
    "reproduce",
]
