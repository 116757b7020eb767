"""Facts of one frame of a multi-frame image: its own functional groups, else the shared ones.

Source: DICOM PS3.3, C.7.6.16 (multi-frame functional groups), C.8.13 and C.8.15 (enhanced MR, CT).
"""

from pydicom.dataset import Dataset

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
