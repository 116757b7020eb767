"""DICOM series to write and to read, for tests."""

import numpy as np
import SimpleITK
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage

from pipeline.manifest import SegmentCode
from pipeline.volume import LabelMap

OBLIQUE = (0.8, 0.6, 0.0, 0.0, 0.0, -1.0)
"""Rows and columns of a slice that is parallel to no body axis."""

LIVER = SegmentCode.model_validate({"type": ["10200004", "SCT", "Liver"]})
LESION = SegmentCode.model_validate(
    {
        "category": ["49755003", "SCT", "Morphologically Abnormal Structure"],
        "type": ["52988006", "SCT", "Lesion"],
        "region": ["64033007", "SCT", "Kidney"],
        "region_modifier": ["7771000", "SCT", "Left"],
    }
)
SECRET = "Zyzzyva"
"""In every attribute of a source that outputs must not repeat."""


def image_header(modality, series, number):
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.SOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
    header.SOPInstanceUID = f"{series}.{number}"
    header.StudyInstanceUID = f"{series}.1000"
    header.SeriesInstanceUID = series
    header.FrameOfReferenceUID = f"{series}.1001"
    header.Modality, header.SeriesNumber = modality, 7
    header.SpecificCharacterSet = "ISO_IR 100"
    header.PatientName, header.PatientID = "Müller^Anna", "id 17"
    header.PatientBirthDate, header.PatientSex = "19500102", "F"
    header.StudyDate, header.StudyTime, header.StudyID = "20200304", "101112.5", "S1"
    header.AccessionNumber, header.ReferringPhysicianName = "A1", "Ref^Erring"
    header.PatientComments = header.OtherPatientIDs = header.StudyDescription = SECRET
    header.InstitutionName = header.StationName = header.SeriesDescription = SECRET
    header.DeviceSerialNumber = header.ImageComments = header.ProtocolName = SECRET
    header.private_block(0x0019, SECRET, create=True).add_new(1, "LO", SECRET)
    return header


def put_pixels(header, pixels):
    header.Rows, header.Columns = pixels.shape[-2:]
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated = header.BitsStored = 16
    header.HighBit, header.PixelRepresentation = 15, 0
    header.PixelData = pixels.astype("<u2").tobytes()


def positions(orientation, distance_mm, num_images, origin=(-30.0, 12.5, 101.25)):
    normal = np.cross(orientation[:3], orientation[3:])
    return [np.array(origin) + number * distance_mm * normal for number in range(num_images)]


def image_by_itk(files):
    in_order = sorted(files, key=lambda file: _along_normal(dcmread(file)))
    return SimpleITK.ReadImage([str(file) for file in in_order])


def read_by_itk(files):
    """Read the pixels of a series as a label map, by SimpleITK: voxels and affine, LPS to RAS."""
    image = image_by_itk(files)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return LabelMap(SimpleITK.GetArrayFromImage(image).T, np.diag([-1, -1, 1, 1]) @ affine)


def _along_normal(image):
    orientation = [float(x) for x in image.ImageOrientationPatient]
    normal = np.cross(orientation[:3], orientation[3:])
    return float(normal @ [float(x) for x in image.ImagePositionPatient])
