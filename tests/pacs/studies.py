"""Small DICOM studies, and a real if simple segmentation of them."""

import hashlib
import os
from pathlib import Path

import highdicom
import numpy as np
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from pipeline.pacs import Result

SIZE = 32
PATIENT = "Doe^Jane"
PATIENT_ID = "ID-4711"
BIRTH_DATE = "19560708"
STUDY_DATE = "20260314"
IDENTIFIERS = ("Doe", "Jane", PATIENT_ID, BIRTH_DATE, STUDY_DATE, "1.2.826")


def make_study(folder, num_series=1, num_slices=4, **attributes):
    """Write a CT study, return its UID and those of its series."""
    study_uid, frame_uid = generate_uid(), generate_uid()
    series_uids = []
    for number in range(1, num_series + 1):
        series_uid = generate_uid()
        series_uids.append(series_uid)
        for index in range(num_slices):
            dataset = make_slice(index, number)
            dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study_uid, series_uid
            dataset.FrameOfReferenceUID = frame_uid
            for keyword, value in attributes.items():
                setattr(dataset, keyword, value)
            path = Path(folder) / study_uid / f"{number}_{index:03d}.dcm"
            path.parent.mkdir(parents=True, exist_ok=True)
            dataset.save_as(path, enforce_file_format=True)
    return study_uid, series_uids


def make_slice(index, number):
    """Return a slice of 32 x 32 pixels with a bright block."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, generate_uid()
    dataset.PatientName, dataset.PatientID = PATIENT, PATIENT_ID
    dataset.PatientBirthDate, dataset.PatientSex = BIRTH_DATE, "F"
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID = STUDY_DATE, "101500", "1"
    dataset.StudyDescription, dataset.AccessionNumber = "HEAD CT", "A1"
    dataset.ReferringPhysicianName = ""
    dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = "CT", number, index + 1
    dataset.SeriesDescription = f"axial {number}"
    dataset.Manufacturer = "none"
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient = [0, 0, 2.5 * index]
    dataset.PixelSpacing, dataset.SliceThickness = [1, 1], 2.5
    dataset.Rows = dataset.Columns = SIZE
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.RescaleIntercept, dataset.RescaleSlope = -1024, 1
    pixels = np.full((SIZE, SIZE), 24, np.uint16)
    pixels[6:18, 8 : 16 + index] = 1100 + number
    dataset.PixelData = pixels.tobytes()
    return dataset


class ThresholdSegmenter:
    """Segments each series by a threshold into a DICOM SEG; leaves what is complete.

    As the real one does: a file is written under another name and then moved.
    """

    def __init__(self, out, reject=()):
        self.out, self.reject, self.calls = Path(out), reject, []

    def __call__(self, folder):
        self.calls.append(folder)
        return [self._one(series) for series in sorted(folder.iterdir())]

    def _one(self, folder):
        slices = [dcmread(path) for path in sorted(folder.iterdir())]
        slices.sort(key=lambda dataset: dataset.ImagePositionPatient[2])
        uid = slices[0].SeriesInstanceUID
        case = hashlib.sha256(b"salt" + uid.encode()).hexdigest()[:8]
        if slices[0].SeriesNumber in self.reject:
            return Result(case, uid, "rejected", "it is too bright")
        product = self.out / f"{case}_seg.dcm"
        if not product.exists():
            temporary = product.with_suffix(f".{os.getpid()}")
            make_segmentation(slices).save_as(temporary)
            temporary.replace(product)
        return Result(case, uid, "done", products=(product,))


def make_segmentation(slices):
    """Return a DICOM SEG of what is bright."""
    mask = np.stack([dataset.pixel_array > 500 for dataset in slices]).astype(np.uint8)
    description = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label="block",
        segmented_property_category=codes.SCT.Tissue,
        segmented_property_type=codes.SCT.Bone,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name="threshold", version="1", family=codes.DCM.ArtificialIntelligence
        ),
    )
    return highdicom.seg.Segmentation(
        source_images=slices,
        pixel_array=mask,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[description],
        series_instance_uid=generate_uid(),
        series_number=900,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="none",
        manufacturer_model_name="threshold",
        software_versions="1",
        device_serial_number="1",
    )
