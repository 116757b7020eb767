"""Facts of one frame of an image: functional groups, transfer syntax, compressed bytes.

Source: DICOM PS3.5, section 10 and annex A.

A decoder makes room for what the frame says, be it a thousand times what the image has.

Source: ITU-T T.81, B.2 (JPEG); T.87, C.2 (JPEG-LS); T.800, A.5.1 (JPEG 2000).

Source: DICOM PS3.3, C.7.6.16 (multi-frame functional groups), C.8.13 and C.8.15 (enhanced MR, CT).
"""

from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.uid import UID

NATIVE = frozenset(
    {
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
    }
)
"""Pixels are plain numbers once the file is read (and inflated)."""

ENCAPSULATED = frozenset(
    {
        uid.RLELossless,
        uid.JPEGBaseline8Bit,
        uid.JPEGExtended12Bit,
        uid.JPEGLossless,
        uid.JPEGLosslessSV1,
        uid.JPEGLSLossless,
        uid.JPEGLSNearLossless,
        uid.JPEG2000Lossless,
        uid.JPEG2000,
    }
)
"""What the GDCM in SimpleITK decodes."""

_LOSSY = frozenset(
    {uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLSNearLossless, uid.JPEG2000}
)


def is_lossy(syntax: UID, lossy_flag: str) -> bool:
    """Tell whether pixels are not those of the scanner any more.

    Args:
        syntax: Transfer syntax. That of JPEG 2000 may hold either; the flag tells.
        lossy_flag: `LossyImageCompression`: `"00"`, `"01"`, or empty where it is missing.
    """
    if syntax == uid.JPEG2000 and lossy_flag == "00":
        return False
    return lossy_flag == "01" or syntax in _LOSSY


def unreadable_syntax(syntax: UID) -> str | None:
    """Return the name of a transfer syntax that cannot be read, or None if it can."""
    if syntax in NATIVE or syntax in ENCAPSULATED:
        return None
    # A UID that no standard names could be a vendor's, and says nothing to anyone.
    return "unknown to the standard" if syntax.name == str(syntax) else syntax.name


_JPEG_START, _END = b"\xff\xd8", 0xFF
_J2K_SIZE = b"\xff\x4f\xff\x51"
_NO_FRAME = (0xC4, 0xC8, 0xCC)
_JPEG_LS_FRAME = 0xF7
_WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD9))


def check_frame(frame: bytes, syntax: UID, size: tuple[int, int]) -> None:
    """Make sure that a compressed frame is one channel of so many rows and columns.

    Raises:
        ValueError: If it is not, or does not say it.
    """
    if syntax == uid.RLELossless:
        # Its size is that of the header.
        return
    is_2000 = syntax in (uid.JPEG2000, uid.JPEG2000Lossless)
    found = _size_of_2000(frame) if is_2000 else _size_of_jpeg(frame)
    if found != (*size, 1):
        raise ValueError(f"a frame is {found}, not {size}")


def _size_of_2000(frame: bytes) -> tuple[int, int, int]:
    at = frame.find(_J2K_SIZE)
    if at < 0 or len(frame) < at + 42:
        raise ValueError("the frame is no JPEG 2000")
    # Behind the two markers, the length and the capabilities.
    fields = frame[at + 8 :]
    width, height, left, top = (int.from_bytes(fields[4 * k : 4 * k + 4], "big") for k in range(4))
    return height - top, width - left, int.from_bytes(fields[32:34], "big")


def _size_of_jpeg(frame: bytes) -> tuple[int, int, int]:
    at = frame.find(_JPEG_START) + 2
    while 2 <= at < len(frame) - 9:
        if frame[at] != _END:
            raise ValueError("the frame is no JPEG")
        marker = frame[at + 1]
        if marker == _END or marker in _WITHOUT_LENGTH:
            at += 1 if marker == _END else 2
            continue
        if marker == _JPEG_LS_FRAME or (marker & 0xF0 == 0xC0 and marker not in _NO_FRAME):
            height, width = (int.from_bytes(frame[at + k : at + k + 2], "big") for k in (5, 7))
            return height, width, frame[at + 9]
        at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    raise ValueError("the frame is no JPEG")


_TRAITS = {
    "TemporalPositionIdentifier": ("FrameContentSequence", "TemporalPositionIndex"),
    "AcquisitionNumber": ("FrameContentSequence", "FrameAcquisitionNumber"),
    "StackID": ("FrameContentSequence", "StackID"),
    "DiffusionBValue": ("MRDiffusionSequence", "DiffusionBValue"),
    "EchoTime": ("MREchoSequence", "EffectiveEchoTime"),
    "InversionTime": ("MRModifierSequence", "InversionTimes"),
    "FlipAngle": ("MRTimingAndRelatedParametersSequence", "FlipAngle"),
    "TriggerTime": ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
    "ComplexImageComponent": ("MRImageFrameTypeSequence", "ComplexImageComponent"),
    "ConvolutionKernel": ("CTReconstructionSequence", "ConvolutionKernel"),
}
"""Where a frame keeps what a single-frame image has at its top, by the name it has there."""

_RESCALE = ("RescaleSlope", "RescaleIntercept", "RescaleType")
_PLACES = {
    "ImagePositionPatient": ("PlanePositionSequence", "ImagePositionPatient"),
    "ImageOrientationPatient": ("PlaneOrientationSequence", "ImageOrientationPatient"),
    "PixelSpacing": ("PixelMeasuresSequence", "PixelSpacing"),
    **{name: ("PixelValueTransformationSequence", name) for name in _RESCALE},
    **_TRAITS,
}
_FRAME_TYPES = ("CTImageFrameTypeSequence", "MRImageFrameTypeSequence", "PETFrameTypeSequence")


class Facts:
    """What a data set says of one of its frames, by the keywords of single-frame images.

    Args:
        dataset: The image's attributes.
        frame: Index of the frame, from 0; ignored if the image has no functional groups.
    """

    def __init__(self, dataset: Dataset, frame: int) -> None:
        self._dataset = dataset
        own = dataset.get("PerFrameFunctionalGroupsSequence") or []
        shared = dataset.get("SharedFunctionalGroupsSequence") or []
        self.is_grouped = bool(own)
        self._groups = [*own[frame : frame + 1], *shared[:1]]

    def get(self, keyword: str) -> object:
        """Return the value of `keyword` as the frame has it, or None."""
        if not self.is_grouped:
            return self._dataset.get(keyword)
        if keyword == "ImageType":
            found = (self._in_group(name, "FrameType") for name in _FRAME_TYPES)
            return next((value for value in found if value is not None), None)
        if keyword == "DiffusionGradientOrientation":
            return self._gradient()
        if keyword in _RESCALE:
            # Some converters leave it at the top, where single-frame images have it.
            found_in_group = self._in_group(*_PLACES[keyword])
            return self._dataset.get(keyword) if found_in_group is None else found_in_group
        if keyword in _PLACES:
            return self._in_group(*_PLACES[keyword])
        return self._dataset.get(keyword)

    def _in_group(self, sequence: str, keyword: str) -> object:
        for group in self._groups:
            for item in group.get(sequence) or []:
                if keyword in item:
                    return item.get(keyword)
        return None

    def _gradient(self) -> object:
        for group in self._groups:
            for item in group.get("MRDiffusionSequence") or []:
                for direction in item.get("DiffusionGradientDirectionSequence") or []:
                    return direction.get("DiffusionGradientOrientation")
        return None
