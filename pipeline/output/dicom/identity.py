"""Who the patient is and what the study is: copied from the source into outputs, and nothing else.

highdicom logs names and refuses values that it finds odd. Archives hold such values, and an output
must carry the archive's own, or it is filed under another patient. So highdicom works on an empty
identity, and the true one is put in afterwards.

Source: DICOM PS3.3 C.7.1.1 (Patient Module), C.7.2.1 (General Study Module); PS3.5 6.2 (values).
"""

import logging
import re

from pydicom import Dataset
from pydicom.config import disable_value_validation
from pydicom.multival import MultiValue

logger = logging.getLogger(__name__)

CHARACTER_SET = "ISO_IR 192"
"""UTF-8: whatever the source was written in, its names and the labels' can be written in this."""

_REQUIRED = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "StudyID",
    "ReferringPhysicianName",
)
"""Attributes of type 2: outputs have all of them, empty where the source has none."""

_IF_PRESENT = ("IssuerOfPatientID", "PatientIdentityRemoved", "DeidentificationMethod")
_DEIDENTIFICATION_CODES = "DeidentificationMethodCodeSequence"

IDENTITY_KEYWORDS = ("SpecificCharacterSet", "SeriesNumber", *_REQUIRED, *_IF_PRESENT,
                     _DEIDENTIFICATION_CODES)  # fmt: skip
"""What must be read of a source for `identity_of`, and to name the series."""

_VALID = {
    "PatientBirthDate": r"\d{8}",
    "PatientSex": "[MFO]",
    "StudyDate": r"\d{8}",
    "StudyTime": r"\d\d(\d\d(\d\d(\.\d{1,6})?)?)?",
    "PatientIdentityRemoved": "YES|NO",
}


def identity_of(image: Dataset, name: str) -> Dataset:
    """Return the patient's and study's attributes of an image, as text for any character set.

    Args:
        image: The source's header.
        name: What messages call the series.
    """
    identity = Dataset()
    with disable_value_validation():
        for keyword in _REQUIRED:
            setattr(identity, keyword, _text(image, keyword, name))
        for keyword in _IF_PRESENT:
            if text := _text(image, keyword, name):
                setattr(identity, keyword, text)
        if image.get(_DEIDENTIFICATION_CODES):
            identity.add(image[_DEIDENTIFICATION_CODES])
    return identity


def empty_identity() -> Dataset:
    """Return all attributes that must be there, empty."""
    empty = Dataset()
    for keyword in _REQUIRED:
        setattr(empty, keyword, "")
    return empty


def put_identity(identity: Dataset, output: Dataset) -> None:
    """Give an output the source's identity."""
    output.SpecificCharacterSet = CHARACTER_SET
    output.update(identity)


def _text(image: Dataset, keyword: str, name: str) -> str:
    value = image.get(keyword)
    if value is None:
        return ""
    parts = value if isinstance(value, MultiValue) else [value]
    # As text, which also decodes names that are still in the source's character set.
    text = "\\".join(str(part) for part in parts).strip()
    if keyword in _VALID and text and not re.fullmatch(_VALID[keyword], text):
        logger.warning("%s: %s is not valid, and left empty in outputs", name, keyword)
        return ""
    return text
