"""Tell whether images are of one patient, without keeping or saying who it is.

Source: DICOM PS3.3, C.7.1.1 (patient) and C.2.2 (patient identification).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.study.dicom.values import as_text

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

PATIENT_TAGS = ("PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientName")

_DATE_DIGITS = 8

REMEDY = "Export the images of each patient as a series of their own."


@dataclass(frozen=True)
class Patient:
    """What tells patients apart; it stays in the process that read it, and is never shown.

    Attributes:
        number: PatientID.
        issuer: Of the PatientID.
        birth: PatientBirthDate, if it is a date.
        name: Words of PatientName.
    """

    number: str = field(default="", repr=False)
    issuer: str = field(default="", repr=False)
    birth: str = field(default="", repr=False)
    name: str = field(default="", repr=False)

    @classmethod
    def of(cls, dataset: "Dataset") -> "Patient":
        """Return the patient that a data set names."""
        number, issuer, birth, name = (as_text(dataset.get(tag)) for tag in PATIENT_TAGS)
        words = name.replace("^", " ").replace("=", " ").casefold().split()
        digits = birth.replace(".", "").replace("-", "")
        is_date = digits.isascii() and digits.isdecimal() and len(digits) == _DATE_DIGITS
        return cls(number, issuer, digits if is_date else "", " ".join(words))

    def __reduce__(self) -> "tuple[type[Patient], tuple[()]]":
        """Leave everything behind where an object is stored, or sent to another process."""
        return Patient, ()


NOBODY = Patient()


def count_patients(patients: Iterable[Patient]) -> int:
    """Return how many patients there are at least.

    What is missing speaks for nobody. Names are spelled in many ways, so they count only where
    images without a PatientID have them.
    """
    each = set(patients)
    numbers = {patient.number for patient in each} - {""}
    names = {patient.name for patient in each} - {""}
    bare = {patient.name for patient in each if not patient.number} - {""}
    found = [
        numbers,
        {patient.issuer for patient in each if patient.number} - {""},
        {patient.birth for patient in each} - {""},
        names if bare else set(),
    ]
    return max(1, *map(len, found))
