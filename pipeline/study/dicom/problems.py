"""Why the pixels of an image file cannot be taken for intensities.

Source: DICOM PS3.3, C.7.6.3 (image pixel), C.11.1 (modality LUT), C.8.2.1 and C.8.9.4 (which CT and
PET images have a rescale).
"""

from dataclasses import dataclass

from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.uid import UID

from pipeline.study.dicom.frames import ENCAPSULATED, NATIVE, Facts, unreadable_syntax
from pipeline.study.dicom.reading import BASE_BYTES, Bounded
from pipeline.study.dicom.values import as_number, as_text, as_words

_EXPORT = "Export the original images from the archive again."
_RESCALE = ("RescaleSlope", "RescaleIntercept")
_NOT_RESCALED = {
    "CT": "it is not known to be HU",
    "PT": "each of its images has a scale of its own",
}
"""What images without a rescale cannot be taken for, by modality."""


@dataclass(frozen=True)
class Problem:
    """Why something cannot be read as a volume, and what the user can do about it."""

    found: str
    remedy: str = _EXPORT


def find_problem(dataset: Dataset, syntax: UID, read: Bounded) -> Problem | None:
    """Look for what keeps pixels from being intensities.

    Args:
        dataset: The header.
        syntax: How the file is encoded.
        read: How much there was to read.
    """
    if unreadable := unreadable_syntax(syntax):
        found = f"its transfer syntax is {unreadable}, which cannot be decoded"
        return Problem(found, "Convert it to Explicit VR Little Endian (dcmdjpeg, gdcmconv).")
    colours = as_text(dataset.get("PhotometricInterpretation"))
    if int(dataset.get("SamplesPerPixel") or 1) != 1 or colours != "MONOCHROME2":
        found = f"its photometric interpretation is {colours or 'missing'}, not MONOCHROME2"
        return Problem(found, "Give images of plain intensities.")
    bits = int(dataset.get("BitsAllocated") or 0)
    if bits not in (8, 16, 32) or not dataset.get("BitsStored"):
        kind = "" if dataset.get("BitsStored") else " and are no whole numbers"
        found = f"its pixels have {bits} bits{kind}"
        return Problem(found, "Give images of whole-number intensities.")
    if syntax in ENCAPSULATED and _leaves_low_bits(dataset):
        found = "its compressed pixels do not begin with the lowest bit (HighBit)"
        return Problem(found, "Convert it to Explicit VR Little Endian (dcmdjpeg, gdcmconv).")
    if "MOSAIC" in as_words(dataset.get("ImageType")):
        remedy = "Convert it with dcm2niix, which knows how its slices are laid out."
        return Problem("its images are mosaics of many slices", remedy)
    if "ModalityLUTSequence" in dataset:
        return Problem("its intensities go through a table (Modality LUT)")
    num_frames = count_frames(dataset)
    groups = dataset.get("PerFrameFunctionalGroupsSequence")
    if num_frames > 1 and (groups is None or len(groups) != num_frames):
        return Problem("it has several frames, and does not say where they lie")
    return _size_problem(dataset, syntax, read) or _rescale_problem(dataset, num_frames)


def count_frames(dataset: Dataset) -> int:
    """Return the number of images in a file."""
    return max(1, int(dataset.get("NumberOfFrames") or 1))


def _leaves_low_bits(dataset: Dataset) -> bool:
    """Tell whether stored bits are not the lowest ones: what decoders make of these differs."""
    high = as_number(dataset.get("HighBit"))
    return high is not None and high + 1 != int(dataset.BitsStored)


def _pixel_bytes(dataset: Dataset) -> int:
    num_pixels = int(dataset.Rows) * int(dataset.Columns) * count_frames(dataset)
    return num_pixels * int(dataset.BitsAllocated) // 8


def _size_problem(dataset: Dataset, syntax: UID, read: Bounded) -> Problem | None:
    is_deflated = syntax == uid.DeflatedExplicitVRLittleEndian
    if read.grows or (is_deflated and read.size > BASE_BYTES + 2 * _pixel_bytes(dataset)):
        remedy = "Export it again, without deflate compression."
        return Problem("a deflated file grows to far more than its pixels", remedy)
    if _is_short(dataset, syntax, read.size - read.end):
        found = "an image file ends before its last pixel (truncated)"
        return Problem(found, "Copy or export the series again.")
    return None


def _is_short(dataset: Dataset, syntax: UID, num_pixel_bytes: int) -> bool:
    needed = _pixel_bytes(dataset) if syntax in NATIVE else 0
    element = 8 if syntax == uid.ImplicitVRLittleEndian else 12
    return num_pixel_bytes < needed + element


def _rescale_problem(dataset: Dataset, num_frames: int) -> Problem | None:
    needed_for = _NOT_RESCALED.get(as_text(dataset.get("Modality")))
    for frame in range(num_frames):
        facts = Facts(dataset, frame)
        values = [facts.get(name) for name in _RESCALE]
        slope, intercept = map(as_number, values)
        if needed_for and (slope is None or intercept is None):
            found = "RescaleSlope or RescaleIntercept is missing or no number"
            return Problem(f"{found}: {needed_for}")
        for name, value in zip(_RESCALE, values, strict=True):
            if as_text(value) and as_number(value) is None:
                return Problem(f"{name} is no number")
        if slope == 0:
            return Problem("RescaleSlope is 0")
    return None
