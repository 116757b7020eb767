"""Label maps as DICOM, on the geometry of the images that they were found in.

`write_segmentation` writes a label map as a DICOM Segmentation, `write_report` the volumes of its
labels as a Structured Report that refers to it. Both copy who the patient and what the study is
from the source images and nothing else of them, and both read back what they wrote before the file
appears. `check_source` tells beforehand whether they can.
"""

from pipeline.dicom_out.algorithm import Algorithm
from pipeline.dicom_out.config import DicomOutputConfig
from pipeline.dicom_out.report import Measured, write_report
from pipeline.dicom_out.segmentation import segmentation_uid, write_segmentation
from pipeline.dicom_out.source import check_source

__all__ = [
    "Algorithm",
    "DicomOutputConfig",
    "Measured",
    "check_source",
    "segmentation_uid",
    "write_report",
    "write_segmentation",
]
