"""What to take from an archive: DICOM keywords and values, checked before and after asking.

An archive may ignore a key that it does not know, and answer with everything; so what it answers
is compared with what was asked. Values can hold names and dates: they appear in no error.

Source: DICOM PS3.4, C.2.2.2 (matching), C.6.2.1 (keys of the study root model).
"""

import difflib
import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.archive.transport import Attributes
from pipeline.errors import ConfigError

STUDY_KEYS = (
    "AccessionNumber", "InstitutionName", "ModalitiesInStudy", "PatientAge", "PatientBirthDate",
    "PatientID", "PatientName", "PatientSex", "ReferringPhysicianName", "StudyDate",
    "StudyDescription", "StudyID", "StudyInstanceUID", "StudyTime",
)  # fmt: skip
SERIES_KEYS = (
    "BodyPartExamined", "Manufacturer", "ManufacturerModelName", "Modality",
    "PerformedProcedureStepStartDate", "ProtocolName", "SeriesDate", "SeriesDescription",
    "SeriesInstanceUID", "SeriesNumber", "SeriesTime", "StationName",
)  # fmt: skip
IMAGE_MODALITIES = ("CT", "MR")
"""Taken where a query names no modality: a study holds reports and segmentations as well."""

_NOT_COMPARED = ("PatientName", "ReferringPhysicianName", "StudyTime", "SeriesTime", "PatientAge")
"""Archives match names and times each in their own way."""

_WHERE = "--query"


@dataclass(frozen=True)
class Query:
    """What to ask for; not shown.

    Attributes:
        study: Value to match by keyword, of studies and patients.
        series: The same, of series.
    """

    study: Mapping[str, str] = field(default_factory=dict, repr=False)
    series: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def study_filters(self) -> Attributes:
        """What to ask for among studies: a modality of series narrows their studies too."""
        if "Modality" not in self.series or "ModalitiesInStudy" in self.study:
            return self.study
        return {**self.study, "ModalitiesInStudy": self.series["Modality"]}

    def wants_study(self, found: Attributes) -> bool:
        """Say whether a study matches, as far as the archive tells."""
        return _matches(self.study_filters, found)

    def wants_series(self, found: Attributes) -> bool:
        """Say whether a series matches, and holds images."""
        named = "Modality" in self.series
        is_image = named or found.get("Modality", IMAGE_MODALITIES[0]) in IMAGE_MODALITIES
        return is_image and _matches(self.series, found)


def parse_query(words: Sequence[str], *, take_all: bool) -> Query:
    """Read words such as `StudyDate=20260101-20261231`.

    Args:
        words: KEYWORD=VALUE each.
        take_all: Whether the user wants the whole archive.

    Raises:
        ConfigError: If a word has no value or its keyword is unknown, naming the nearest; or if
            there are none and `take_all` is not set.
    """
    study: dict[str, str] = {}
    series: dict[str, str] = {}
    for word in words:
        keyword, equals, value = word.partition("=")
        if not equals or not value:
            found = f"{keyword} has no value" if equals else "a word without ="
            raise ConfigError(_WHERE, found, "Write KEYWORD=VALUE, such as Modality=CT.")
        if keyword in study or keyword in series:
            remedy = "Give it once; UIDs may be a list with commas."
            raise ConfigError(_WHERE, f"{keyword} is given twice", remedy)
        if keyword.endswith("UID"):
            value = value.replace(",", "\\")
        (study if _level_of(keyword) == "study" else series)[keyword] = value
    if not words and not take_all:
        remedy = "Name what to take, such as StudyDate=20260101-20261231, or add --all."
        raise ConfigError(_WHERE, "an empty query would take the whole archive", remedy)
    return Query(study, series)


def _level_of(keyword: str) -> str:
    if keyword in STUDY_KEYS:
        return "study"
    if keyword in SERIES_KEYS:
        return "series"
    known = {key.lower(): key for key in (*STUDY_KEYS, *SERIES_KEYS)}
    match = difflib.get_close_matches(keyword.lower(), known, n=1)
    remedy = f"Did you mean {known[match[0]]}?" if match else f"Known: {', '.join(known.values())}."
    # A mistyped word may be a value, which stays unsaid; a keyword has letters only.
    shown = f" {keyword!r}" if match else ""
    raise ConfigError(_WHERE, f"unknown keyword{shown}", remedy)


def _matches(filters: Attributes, found: Attributes) -> bool:
    return all(
        _one_matches(wanted, found[keyword], is_date=keyword.endswith("Date"))
        for keyword, wanted in filters.items()
        if keyword not in _NOT_COMPARED and found.get(keyword)
    )


def _one_matches(wanted: str, found: str, *, is_date: bool) -> bool:
    values = [value.strip().casefold() for value in found.split("\\")]
    if is_date and "-" in wanted:
        first, _, last = wanted.partition("-")
        return any((first or value) <= value <= (last or value) for value in values)
    patterns = [pattern.strip().casefold() for pattern in wanted.split("\\")]
    # Brackets mean themselves in DICOM; only * and ? are wild.
    patterns = [pattern.replace("[", "[[]") for pattern in patterns]
    return any(fnmatch.fnmatchcase(value, pattern) for value in values for pattern in patterns)
