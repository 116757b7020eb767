"""What to take from an archive: a query, and the studies and series that it finds.

An archive may ignore a key that it does not know, and answer with everything; so what it answers
is compared with what was asked. Values can hold names and dates: they appear in no error.

Source: DICOM PS3.4, C.2.2.2 (matching), C.6.2.1 (keys of the study root model).
"""

import difflib
import fnmatch
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.errors import ConfigError
from pipeline.pacs.ledger import Ledger
from pipeline.pacs.pull import WantedStudy
from pipeline.pacs.transport import Attributes, PatientArchive, TransferError, checked_uid
from pipeline.system.progress import track
from pipeline.system.quiet import quiet_libraries

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


logger = logging.getLogger(__name__)

_MAX_DIGITS = 12
"""Of a number of instances (value representation IS)."""


@dataclass(frozen=True)
class Counts:
    """How much a query finds.

    Attributes:
        num_studies: Studies with at least one series that matches.
        num_series: Series that match.
    """

    num_studies: int
    num_series: int


@dataclass(frozen=True)
class Work:
    """What a query finds.

    Attributes:
        studies: Those whose series are known, the ones that were begun before first.
        troubled: Why another one cannot be done, by its UID, which may be none.
    """

    studies: Sequence[WantedStudy]
    troubled: Mapping[str, str] = field(repr=False)


def count_work(archive: PatientArchive, query: Query, limit: int | None) -> Counts:
    """Say how much a query finds, without taking anything."""
    with quiet_libraries():
        archive.check()
        found, troubled = _search(archive, query, limit, known=frozenset())
    if troubled:
        logger.warning("%d more studies cannot be looked up", len(troubled))
    return Counts(len(found), sum(len(series) for series in found.values()))


def find_work(archive: PatientArchive, query: Query, limit: int | None, ledger: Ledger) -> Work:
    """Return the studies that a query finds.

    Args:
        archive: To ask.
        query: What for.
        limit: Most studies to return, beside those in trouble; the same ones when asked again.
            None: all.
        ledger: Names them, and knows which were begun.
    """
    known = frozenset(entry.study_uid for entry in ledger.entries())
    found, troubled = _search(archive, query, limit, known)
    studies = [
        WantedStudy(
            study_uid,
            ledger.name_of(study_uid),
            {uid: ledger.name_of(uid) for uid in series},
            {uid: _number_of(attributes) for uid, attributes in series.items()},
        )
        for study_uid, series in found.items()
    ]
    return Work(studies, troubled)


def _search(
    archive: PatientArchive, query: Query, limit: int | None, known: frozenset[str]
) -> tuple[dict[str, dict[str, Attributes]], dict[str, str]]:
    """Return what is known of each series that matches, by study and series UID, and troubles."""
    uids = [
        study.get("StudyInstanceUID", "")
        for study in archive.find_studies(query.study_filters)
        if query.wants_study(study)
    ]
    uids.sort(key=lambda uid: (uid not in known, uid))
    owners: dict[str, str] = {}
    found: dict[str, dict[str, Attributes]] = {}
    troubled: dict[str, str] = {}
    for study_uid in track(uids, "Asking the archive", len(uids)):
        try:
            series = _series_of(study_uid, archive, query, owners)
        except TransferError as error:
            troubled[study_uid] = f"not looked up: {error}"
            continue
        if series:
            found[study_uid] = dict(sorted(series.items()))
        if limit is not None and len(found) >= limit:
            break
    return found, troubled


def _series_of(
    study_uid: str, archive: PatientArchive, query: Query, owners: dict[str, str]
) -> dict[str, Attributes]:
    """Return the series of a study that match, and add them to the `owners` of all so far.

    Raises:
        TransferError: If the archive does not tell, or tells what cannot be.
    """
    checked_uid(study_uid, archive.name)
    series: dict[str, Attributes] = {}
    for attributes in archive.find_series(study_uid, query.series):
        uid = checked_uid(attributes.get("SeriesInstanceUID", ""), archive.name)
        of_study = attributes.get("StudyInstanceUID", study_uid)
        if of_study != study_uid or owners.get(uid, study_uid) != study_uid:
            found = "it lists a series of another study"
            raise TransferError(archive.name, found, "Ask who runs the archive.")
        if query.wants_series(attributes):
            series[uid] = attributes
    owners.update(dict.fromkeys(series, study_uid))
    return series


def _number_of(attributes: Attributes) -> int:
    text = attributes.get("NumberOfSeriesRelatedInstances", "")
    return int(text) if text.isdecimal() and len(text) <= _MAX_DIGITS else 0
