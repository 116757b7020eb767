"""The header of one DICOM file: which series it belongs to, and where its slices lie.

Positions and directions are LPS+ mm here, as DICOM gives them. What names the patient is compared
in memory, and goes nowhere.

Source: DICOM PS3.3, C.7.6.2 (image plane), C.7.6.3 (image pixel), C.11.1 (modality LUT).
"""

import os
import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.uid import UID

from pipeline.study.dicom.detect import NO_FILE
from pipeline.study.dicom.frames import Facts, is_lossy
from pipeline.study.dicom.problems import Problem, count_frames, find_problem
from pipeline.study.dicom.reading import Bounded, read_bounded
from pipeline.study.dicom.values import (
    NOBODY,
    PATIENT_TAGS,
    Patient,
    Trait,
    as_number,
    as_numbers,
    as_text,
    as_trait,
    as_words,
)
from pipeline.study.stored import stamp_of
from pipeline.system.disk import of_machine
from pipeline.system.text import open_ordinary

Kind: TypeAlias = Literal["image", "localizer", "capture"]

DAMAGE = (
    InvalidDicomError, BytesLengthException, OSError, EOFError, ValueError, TypeError,
    AttributeError, KeyError, IndexError, NotImplementedError, ArithmeticError, MemoryError,
    RecursionError, struct.error, zlib.error,
)  # fmt: skip
"""What pydicom raises on files that are torn or were never DICOM."""

TRAITS = (
    "TemporalPositionIdentifier", "AcquisitionNumber", "DiffusionBValue",
    "DiffusionGradientOrientation", "EchoTime", "EchoNumbers", "InversionTime", "FlipAngle",
    "ImageType", "ComplexImageComponent", "ConvolutionKernel", "SequenceName", "StackID",
    "TriggerTime", "FrameReferenceTime", "AcquisitionTime", "FrameOfReferenceUID",
)  # fmt: skip
"""What tells the volumes of one series apart, the most telling first."""

_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber",
    "InstanceNumber", "Modality", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel",
    "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope",
    "RescaleIntercept", "RescaleType", "ModalityLUTSequence", "LossyImageCompression",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", *TRAITS, *PATIENT_TAGS,
]  # fmt: skip

_NO_IMAGES = frozenset(
    {
        "SEG", "SR", "RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD", "RTIMAGE", "PR", "KO", "DOC",
        "REG", "FID", "RWV", "PLAN", "AU", "ECG",
    }
)  # fmt: skip
_CAPTURES = frozenset(
    {
        uid.SecondaryCaptureImageStorage,
        uid.MultiFrameSingleBitSecondaryCaptureImageStorage,
        uid.MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
        uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
        uid.MultiFrameTrueColorSecondaryCaptureImageStorage,
    }
)


@dataclass(frozen=True, slots=True)
class Slice:
    """One plane of pixels, by its header.

    Attributes:
        path: The file.
        frame: Index in the file, from 0.
        size: Rows and columns.
        position_mm: Centre of the first pixel, LPS+.
        axes: Unit vectors along a row and along a column, LPS+, one after the other.
        pixel_spacing_mm: Between rows, and between columns.
        traits: Values of `TRAITS`, in their order.
        number: InstanceNumber, which counts the images of a series.
        is_rescaled: Whether it says what its stored values stand for (RescaleSlope).
    """

    path: Path
    frame: int
    size: tuple[int, int]
    position_mm: tuple[float, ...] | None
    axes: tuple[float, ...] | None
    pixel_spacing_mm: tuple[float, ...] | None
    traits: tuple[Trait, ...]
    number: float | None = None
    is_rescaled: bool = False


@dataclass(frozen=True)
class Instance:
    """An image file of a series.

    Attributes:
        path: The file.
        uid: SOPInstanceUID; two files of one are copies.
        series_uid: SeriesInstanceUID.
        study_uid: StudyInstanceUID.
        modality: Such as `"CT"`.
        number: SeriesNumber.
        kind: Whether it is no part of a volume by its own words.
        is_derived: Made from other images for show: ImageType is DERIVED and SECONDARY.
        problem: Why its pixels cannot be taken for intensities.
        warnings: What is odd about them.
        slices: In the order of the file; none if there is a problem.
        patient: Whom it is of, to be compared.
        stamp: Of the file whose header this is, as by `pipeline.study.stored`.
    """

    path: Path
    uid: str
    series_uid: str
    study_uid: str
    modality: str
    number: int | None
    kind: Kind
    is_derived: bool
    problem: Problem | None
    warnings: tuple[str, ...]
    slices: tuple[Slice, ...]
    patient: Patient = NOBODY
    stamp: tuple[int, ...] = ()


@dataclass(frozen=True)
class LeftOut:
    """A DICOM object without an image, such as a report; `what` is its modality."""

    what: str


@dataclass(frozen=True)
class Damaged:
    """A file that is DICOM by its name or its first bytes, and cannot be read.

    Attributes:
        path: The file.
        series_uid: As far as it was read.
        error: What the system said, if it did.
    """

    path: Path
    series_uid: str | None = None
    error: str = ""


def read_instance(path: Path) -> Instance | LeftOut | Damaged:
    """Read a file's header; its pixels are not touched. Warnings of pydicom are the caller's.

    Raises:
        OSError: If the machine lacks what it takes to open any file.
    """
    series_uid = None
    try:
        with open_ordinary(path) as file:
            status = os.fstat(file.fileno())
            read = read_bounded(file, _TAGS, with_pixels=False)
        dataset = read.dataset
        series_uid = as_text(dataset.get("SeriesInstanceUID")) or None
        modality = as_text(dataset.get("Modality"))
        if modality in _NO_IMAGES or _is_no_image(dataset):
            return LeftOut(modality or "other")
        if series_uid is None or not dataset.get("Rows") or not dataset.get("Columns"):
            return Damaged(path, series_uid)
        found = _describe(path, read, series_uid)
        return replace(found, stamp=tuple(stamp_of(status)))
    except DAMAGE as error:
        if of_machine(error) is not None:
            raise
        said = ""
        if isinstance(error, OSError) and error.errno not in NO_FILE:
            said = error.strerror or ""
        return Damaged(path, series_uid, said)


def _is_no_image(dataset: Dataset) -> bool:
    # A DICOMDIR says what it is in its file meta information alone.
    meta = getattr(dataset, "file_meta", {})
    sop_class = UID(dataset.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID") or "")
    return bool(sop_class) and "Rows" not in dataset and "Image Storage" not in sop_class.name


def _describe(path: Path, read: Bounded, series_uid: str) -> Instance:
    dataset = read.dataset
    syntax = transfer_syntax(dataset)
    first = Facts(dataset, 0)
    image_type = as_words(dataset.get("ImageType"))
    modality = as_text(dataset.get("Modality"))
    number = as_number(dataset.get("SeriesNumber"))
    warnings: tuple[str, ...] = ()
    if is_lossy(syntax, as_text(dataset.get("LossyImageCompression"))):
        warnings = ("its images went through lossy compression",)
    if modality == "CT" and as_text(first.get("RescaleType")) not in ("", "HU"):
        warnings += ("its header does not call its intensities Hounsfield units (RescaleType)",)
    problem = find_problem(dataset, syntax, read)
    # A torn header can claim two thousand million frames; one with a problem is not followed.
    frames = range(count_frames(dataset) if problem is None else 0)
    return Instance(
        path=path,
        uid=as_text(dataset.get("SOPInstanceUID")),
        series_uid=series_uid,
        study_uid=as_text(dataset.get("StudyInstanceUID")),
        modality=modality,
        number=None if number is None else int(number),
        kind=_kind(dataset, image_type),
        is_derived=image_type[:2] == ("DERIVED", "SECONDARY"),
        problem=problem,
        warnings=warnings,
        slices=tuple(_slice(path, dataset, frame) for frame in frames),
        patient=Patient.of(dataset),
    )


def transfer_syntax(dataset: Dataset) -> UID:
    """Return how a data set's file was encoded; files without a preamble do not say it."""
    stated = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    return UID(stated) if stated else uid.ImplicitVRLittleEndian


def _kind(dataset: Dataset, image_type: tuple[str, ...]) -> Kind:
    if dataset.get("SOPClassUID") in _CAPTURES:
        return "capture"
    return "localizer" if {"LOCALIZER", "SCOUT"} & set(image_type) else "image"


def _slice(path: Path, dataset: Dataset, frame: int) -> Slice:
    facts = Facts(dataset, frame)
    return Slice(
        path=path,
        frame=frame,
        size=(int(dataset.Rows), int(dataset.Columns)),
        position_mm=as_numbers(facts.get("ImagePositionPatient"), 3),
        axes=as_numbers(facts.get("ImageOrientationPatient"), 6),
        pixel_spacing_mm=as_numbers(facts.get("PixelSpacing"), 2),
        traits=tuple(as_trait(facts.get(name)) for name in TRAITS),
        number=None if facts.is_grouped else as_number(facts.get("InstanceNumber")),
        is_rescaled=as_number(facts.get("RescaleSlope")) is not None,
    )
