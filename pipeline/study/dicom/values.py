"""Values of DICOM attributes as they are meant, and whether they are of one patient.

Source: DICOM PS3.3, C.7.1.1 (patient) and C.2.2 (patient identification).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, SupportsFloat, SupportsIndex, TypeAlias

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

Trait: TypeAlias = float | str | tuple[str, ...] | None
"""A value that can be compared and sorted."""


def as_trait(value: object) -> Trait:
    """Return a value that can be compared: scanners write the same time as 2.46 and 2.460."""
    if value is None or value == "":
        return None
    if isinstance(value, int | float):
        return round(float(value), 2)
    return value if isinstance(value, str) else as_words(value)


def as_words(value: object) -> tuple[str, ...]:
    """Return the words of a value that may have one, several or none."""
    if value is None or isinstance(value, str):
        return (value,) if value else ()
    return tuple(str(word) for word in value) if isinstance(value, Iterable) else (str(value),)


def as_text(value: object) -> str:
    """Return a value as text, without blanks around it; empty if it is missing."""
    return "" if value is None else str(value).strip()


def as_number(value: object) -> float | None:
    """Return a finite number, or None."""
    numbers = as_numbers([value], 1)
    return None if numbers is None else numbers[0]


def as_numbers(values: object, count: int) -> tuple[float, ...] | None:
    """Return finite numbers, or None if they are missing, of another count, or no numbers."""
    if not isinstance(values, Iterable):
        return None
    numbers = []
    for value in values:
        if not isinstance(value, str | SupportsFloat | SupportsIndex):
            return None
        try:
            numbers.append(float(value))
        except (ValueError, OverflowError):
            return None
    return tuple(numbers) if len(numbers) == count and all(map(math.isfinite, numbers)) else None


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
