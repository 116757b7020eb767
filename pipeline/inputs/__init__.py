"""Which studies the user means: files, folders, BIDS data sets, trees of DICOM."""

from pipeline.inputs.bids import BidsChoice
from pipeline.inputs.dicom import DicomOptions, dicom_options
from pipeline.inputs.find import DataRoot, find_studies, tell_unlisted
from pipeline.inputs.naming import load_salt, write_key

__all__ = [
    "BidsChoice",
    "DataRoot",
    "DicomOptions",
    "dicom_options",
    "find_studies",
    "load_salt",
    "tell_unlisted",
    "write_key",
]
