"""DICOM files made to measure: a regular series, and whatever a test changes about it."""

from pathlib import Path

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
ROOT = "1.2.826.0.1.3680043.8.498."
PATIENT = "Doe^Jane"


def voxels(count=5, rows=6, columns=7, seed=0):
    """Stored values, `(K, J, I)`: 12-bit noise, as a scanner gives."""
    return np.random.default_rng(seed).integers(0, 4096, (count, rows, columns)).astype(np.uint16)


def make_slice(pixels, position=(0.0, 0.0, 0.0), *, series=1, study=1, instance=1, **changes):
    """Return a CT slice as a data set; `changes` set attributes, and None removes them."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset.SOPClassUID = uid.CTImageStorage
    dataset.SOPInstanceUID = f"{ROOT}{study}.{series}.{instance}"
    dataset.StudyInstanceUID = f"{ROOT}{study}"
    dataset.SeriesInstanceUID = f"{ROOT}{study}.{series}"
    dataset.SeriesNumber, dataset.InstanceNumber = series, instance
    dataset.Modality, dataset.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.PatientName, dataset.PatientID = PATIENT, "MRN-4711"
    dataset.PatientBirthDate, dataset.StudyDate = "19500101", "20200202"
    dataset.ImagePositionPatient = list(map(float, position))
    dataset.ImageOrientationPatient, dataset.PixelSpacing = list(AXIAL), [2.0, 1.5]
    dataset.SliceThickness = 9.0
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    bits = pixels.dtype.itemsize * 8
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = 1, -1024, "HU"
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"
    for name, value in changes.items():
        if value is None:
            del dataset[name]
        else:
            setattr(dataset, name, value)
    return dataset


def save(dataset, path):
    """Write a data set as a DICOM file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path, enforce_file_format=True)
    return path


def positions_along(step=(0.0, 0.0, 3.0), count=5, start=(-10.0, -20.0, 30.0)):
    """Positions of `count` slices, `step` mm apart, LPS."""
    return [tuple(np.add(start, np.multiply(step, index))) for index in range(count)]


def make_series(stored_KJI, positions=None, *, each=None, **changes):
    """Return the slices of a series.

    `each` gives the changes of single slices by index; `changes` are those of all.
    """
    positions = positions_along(count=len(stored_KJI)) if positions is None else positions
    first = changes.pop("instance", 1)
    return [
        make_slice(
            pixels,
            position,
            instance=first + index,
            **{**changes, **(each(index) if each else {})},
        )
        for index, (pixels, position) in enumerate(zip(stored_KJI, positions, strict=True))
    ]


def save_series(slices, folder: Path, order=None):
    """Write slices under names whose order is not that of their positions."""
    shuffled = np.random.default_rng(1).permutation(len(slices)) if order is None else order
    paths = [
        save(slices[index], folder / f"IM{number:04d}") for number, index in enumerate(shuffled)
    ]
    return sorted(paths)


def make_enhanced(stored_KJI, positions, *, each=None, modality="CT", **changes):
    """Return a multi-frame image; `each` gives functional groups of single frames by index."""
    dataset = make_slice(stored_KJI, **changes)
    is_ct = modality == "CT"
    dataset.SOPClassUID = uid.EnhancedCTImageStorage if is_ct else uid.EnhancedMRImageStorage
    dataset.Modality, dataset.NumberOfFrames = modality, len(stored_KJI)
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        del dataset[name]
    for name in ("RescaleSlope", "RescaleIntercept", "RescaleType"):
        del dataset[name]
    shared = Dataset()
    shared.PlaneOrientationSequence = _item(ImageOrientationPatient=list(AXIAL))
    shared.PixelMeasuresSequence = _item(PixelSpacing=[2.0, 1.5], SliceThickness=9.0)
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for index, position in enumerate(positions):
        frame = Dataset()
        frame.PlanePositionSequence = _item(ImagePositionPatient=list(map(float, position)))
        frame.PixelValueTransformationSequence = _item(
            RescaleSlope=index + 1, RescaleIntercept=-1000, RescaleType="HU" if is_ct else "US"
        )
        for name, values in (each(index) if each else {}).items():
            setattr(frame, name, _item(**values))
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(frames)
    return dataset


def _item(**values):
    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return Sequence([item])
