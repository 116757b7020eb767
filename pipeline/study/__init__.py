"""A study comes in: files of voxels become one checked volume in RAS+ mm, or a stated refusal.

`read_study` reads NIfTI, NRRD and MetaImage, one file per channel, and keeps the header fields that
outputs must repeat; `read_label_map` reads labels; `open_volume` reads a header alone. Nothing is
taken from free text in headers, and no file, however broken, costs more memory than its size
allows.
"""

from pipeline.study.reader import extent_of, open_volume, read_label_map, read_study
from pipeline.study.study import (
    VOLUME_SUFFIXES,
    GeometryHeader,
    ImageFile,
    Study,
    StudyConfig,
    case_name,
)
from pipeline.study.text_header import voxel_files

__all__ = [
    "VOLUME_SUFFIXES",
    "GeometryHeader",
    "ImageFile",
    "Study",
    "StudyConfig",
    "case_name",
    "extent_of",
    "open_volume",
    "read_label_map",
    "read_study",
    "voxel_files",
]
