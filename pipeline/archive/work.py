"""What there is to do: the studies and series that a query finds in an archive."""

from dataclasses import dataclass

from pipeline.archive.ledger import Ledger
from pipeline.archive.pull import WantedStudy
from pipeline.archive.query import Query
from pipeline.archive.retry import PatientArchive
from pipeline.archive.transport import Attributes
from pipeline.progress import track
from pipeline.quiet import quiet_libraries


@dataclass(frozen=True)
class Counts:
    """How much a query finds.

    Attributes:
        num_studies: Studies with at least one series that matches.
        num_series: Series that match.
    """

    num_studies: int
    num_series: int


def count_work(archive: PatientArchive, query: Query, limit: int | None) -> Counts:
    """Say how much a query finds, without taking anything."""
    with quiet_libraries():
        archive.check()
        found = _search(archive, query, limit, known=frozenset())
    return Counts(len(found), sum(len(series) for series in found.values()))


def find_work(
    archive: PatientArchive, query: Query, limit: int | None, ledger: Ledger
) -> list[WantedStudy]:
    """Return the studies that a query finds, those that were begun before first.

    Args:
        archive: To ask.
        query: What for.
        limit: Most studies to return; the same ones when asked again. None: all.
        ledger: Names them, and knows which were begun.
    """
    known = frozenset(entry.study_uid for entry in ledger.entries())
    found = _search(archive, query, limit, known)
    return [
        WantedStudy(
            study_uid,
            ledger.name_of(study_uid),
            {uid: ledger.name_of(uid) for uid in series},
            {uid: _number_of(attributes) for uid, attributes in series.items()},
        )
        for study_uid, series in found.items()
    ]


def _search(
    archive: PatientArchive, query: Query, limit: int | None, known: frozenset[str]
) -> dict[str, dict[str, Attributes]]:
    """Return what is known of each series that matches, by study and series UID."""
    uids = [
        study["StudyInstanceUID"]
        for study in archive.find_studies(query.study_filters)
        if query.wants_study(study)
    ]
    uids.sort(key=lambda uid: (uid not in known, uid))
    found: dict[str, dict[str, Attributes]] = {}
    for study_uid in track(uids, "Asking the archive", len(uids)):
        series = {
            attributes["SeriesInstanceUID"]: attributes
            for attributes in archive.find_series(study_uid, query.series)
            if query.wants_series(attributes)
        }
        if series:
            found[study_uid] = dict(sorted(series.items()))
        if limit is not None and len(found) >= limit:
            break
    return found


def _number_of(attributes: Attributes) -> int:
    text = attributes.get("NumberOfSeriesRelatedInstances", "")
    return int(text) if text.isdecimal() else 0
