"""DICOM comes in: headers are grouped to series, checked and chosen from before pixels are read.

LPS, in which DICOM places slices, ends in `stack`.
"""

from pipeline.study.dicom.detect import dicom_among, is_dicom
from pipeline.study.dicom.scan import (
    UNREADABLE_REMEDY,
    DicomScan,
    find_series,
    renew,
    scan_dicom,
)
from pipeline.study.dicom.series import (
    Choice,
    DicomSeries,
    Modality,
    SeriesRule,
    Source,
    choose_series,
)
from pipeline.study.dicom.volume import check_one_patient, find_volume, open_dicom

__all__ = [
    "UNREADABLE_REMEDY",
    "Choice",
    "DicomScan",
    "DicomSeries",
    "Modality",
    "SeriesRule",
    "Source",
    "check_one_patient",
    "choose_series",
    "dicom_among",
    "find_series",
    "find_volume",
    "is_dicom",
    "open_dicom",
    "renew",
    "scan_dicom",
]
