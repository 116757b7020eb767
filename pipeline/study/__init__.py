"""A study comes in: files of voxels become one checked volume in RAS+ mm, or a stated refusal.

`read_study` reads NIfTI, NRRD and MetaImage, one file per channel, and DICOM series, and keeps the
header fields that outputs must repeat; `find_series` lists what DICOM files hold; `read_label_map`
reads labels; `open_volume` reads a header alone. Nothing is taken from free text in headers, and
no file, however broken, costs more memory than its size allows.
"""

from pipeline.study.dicom import (
    UNREADABLE_REMEDY,
    Choice,
    DicomScan,
    DicomSeries,
    Modality,
    SeriesRule,
    Source,
    check_one_patient,
    choose_series,
    dicom_among,
    find_series,
    is_dicom,
    scan_dicom,
)
from pipeline.study.input import StudyInput
from pipeline.study.reader import (
    current_source,
    extent_of,
    open_volume,
    read_label_map,
    read_study,
    resolve_source,
    source_files,
)
from pipeline.study.stored import Stamp, changed, read_unchanged, stamp
from pipeline.study.study import (
    VOLUME_SUFFIXES,
    GeometryHeader,
    ImageFile,
    Place,
    Study,
    StudyConfig,
    case_name,
    place_labels,
)

__all__ = [
    "UNREADABLE_REMEDY",
    "VOLUME_SUFFIXES",
    "Choice",
    "DicomScan",
    "DicomSeries",
    "GeometryHeader",
    "ImageFile",
    "Modality",
    "Place",
    "SeriesRule",
    "Source",
    "Stamp",
    "Study",
    "StudyConfig",
    "StudyInput",
    "case_name",
    "changed",
    "check_one_patient",
    "choose_series",
    "current_source",
    "dicom_among",
    "extent_of",
    "find_series",
    "is_dicom",
    "open_volume",
    "place_labels",
    "read_label_map",
    "read_study",
    "read_unchanged",
    "resolve_source",
    "scan_dicom",
    "source_files",
    "stamp",
]
