"""Label maps as DICOM, on the geometry of the images that they were found in.

`segmentation.write_segmentation` writes a label map as a DICOM Segmentation, `report.write_report`
the volumes of its labels as a Structured Report that refers to it. Both copy who the patient and
what the study is from the source images and nothing else of them, and both read back what they
wrote before the file appears. `source.check_source` tells beforehand whether they can. These three
modules need pydicom and highdicom; what is named here does not.
"""

from pipeline.output.dicom.algorithm import Algorithm, DicomOutputConfig

__all__ = ["Algorithm", "DicomOutputConfig"]
