"""What there is to do: the studies and series that a query finds in an archive."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.archive.ledger import Ledger
from pipeline.archive.pull import WantedStudy
from pipeline.archive.query import Query
from pipeline.archive.retry import PatientArchive
from pipeline.archive.transport import Attributes, TransferError, checked_uid
from pipeline.progress import track
from pipeline.quiet import quiet_libraries

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
