"""How DICOM outputs are written."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

LARGEST_SERIES_NUMBER = 2**31 - 2
"""One less than an Integer String (IS) holds: the report takes the number after the first."""


class DicomOutputConfig(BaseModel):
    """How DICOM outputs are written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["binary", "labelmap"] = Field(
        default="binary",
        description="binary: one bit a voxel and segment, which every archive takes; labelmap: "
        "one number a voxel (DICOM Supplement 243), smaller, but older archives refuse it.",
    )
    compression: Literal["none", "rle", "jpeg-ls"] = Field(
        default="rle",
        description="Lossless compression of labelmaps; binary ones are never compressed. jpeg-ls "
        "makes smaller files than rle, but some tools for segmentations refuse it.",
    )
    series_number: int = Field(
        default=9001,
        ge=1,
        le=LARGEST_SERIES_NUMBER,
        description="SeriesNumber of segmentations; reports have the next one.",
    )
