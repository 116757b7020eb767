"""Where a round trip stands, read from its journal, also while it goes on."""

import platform
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.table import Table

from pipeline.journal import (
    ARCHIVE_LOCK,
    Journal,
    Line,
    RunRecord,
    in_words,
    is_locked,
    lines_of_reasons,
    table_of_running,
)
from pipeline.journal import Entry as CohortEntry
from pipeline.pacs.folders import WorkFolders
from pipeline.pacs.ledger import STATES, Entry, Ledger, State, TripRecord
from pipeline.system.files import csv_text, write_text
from pipeline.system.spelling import spelled

COLUMNS = ("study", "series", "state", "reason", "attempts", "products")


def write_table(ledger: Ledger, out: Path) -> None:
    """Write the table of all series in the ledger, atomically."""
    rows: list[tuple[object, ...]] = [COLUMNS]
    for entry in ledger.entries():
        study, products = ledger.name_of(entry.study_uid), " ".join(entry.products)
        name = entry.name if entry.is_of_series else ""
        reason = spelled(entry.reason)
        rows.append((study, name, entry.state, reason, entry.attempts, products))
    write_text(out / "archive.csv", csv_text(rows))


_LEAST_FIRST: tuple[State, ...] = (
    "queued", "pulled", "failed", "segmented", "unconfirmed", "pushed", "rejected", "unchosen"
)  # fmt: skip
"""A study is as far as the first of these that one of its series is."""

_SELDOM: tuple[State, ...] = ("unchosen", "unconfirmed")
"""Not shown where there are none."""

_IN_HAND: dict[State, str] = {
    "queued": "being pulled",
    "pulled": "being segmented",
    "segmented": "being pushed",
    "unconfirmed": "pushed, not listed yet",
}


@dataclass(frozen=True)
class TripStatus:
    """Where the last round trip of an output folder stands.

    Attributes:
        out: The output folder.
        run: The run.
        studies: The series of each of its studies, by the study's name.
        at_work: Names of studies of which there are pulled files.
        segmented: Those that the network's process has in hand.
        is_running: Whether its process is alive.
        now: When this was read, in seconds since 1970.
    """

    out: Path
    run: TripRecord
    studies: Mapping[str, Sequence[Entry]]
    at_work: frozenset[str]
    segmented: Sequence[CohortEntry]
    is_running: bool
    now: float

    @property
    def counts(self) -> dict[State, int]:
        """Number of studies in each state; they sum up to all studies."""
        found = Counter(_state_of(series) for series in self.studies.values())
        return {state: found[state] for state in STATES if found[state] or state not in _SELDOM}

    @property
    def is_well(self) -> bool:
        """Whether nothing has gone wrong so far: a run that ended before its studies did has."""
        return not self._reasons() and (self.is_running or self._ended_well)

    @property
    def remaining(self) -> timedelta | None:
        """How long the run will still take, by what it did so far; None if that says nothing."""
        num_ended = sum(
            self._has_ended(series) and _changed_at(series) >= self.run.began_at
            for series in self.studies.values()
        )
        if not self.is_running or not num_ended:
            return None
        return timedelta(seconds=(self.now - self.run.began_at) / num_ended * self._num_left)

    def lines(self) -> Sequence[Line]:
        """Return what there is to say, to be printed."""
        counts = ", ".join(f"{number} {state}" for state, number in self.counts.items())
        num_series = sum(e.is_of_series for series in self.studies.values() for e in series)
        lines: list[Line] = [
            f"{len(self.studies)} studies ({num_series} series): {counts}",
            self._of_the_run(),
        ]
        if self.remaining is not None:
            lines.append(f"about {in_words(self.remaining)} to go")
        if self.is_running:
            lines += self._in_hand()
        return [*lines, *lines_of_reasons(self._reasons(), self.out / "archive.csv")]

    def sources(self) -> Sequence[Line]:
        """Return which series of which study each name stands for."""
        return [
            f"{entry.name}: study {entry.study_uid}"
            + f", series {entry.series_uid}" * entry.is_of_series
            for series in self.studies.values()
            for entry in series
        ]

    def _of_the_run(self) -> str:
        who = f"process {self.run.pid} on {self.run.host}"
        began = f"round trip {self.run.number} began {self._ago(self.run.began_at)} ago"
        if self.is_running:
            last = max([self.run.began_at, *map(_changed_at, self.studies.values())])
            return f"{began}, is running ({who}), last entry {self._ago(last)} ago"
        if self.run.ended_at is not None:
            ended = f"{began}, ended {self._ago(self.run.ended_at)} ago"
            if self._ended_well:
                return ended
            return f"{ended} before {self._num_left} studies did; the same command goes on"
        return f"{began} and was killed; the same command goes on ({who})"

    def _in_hand(self) -> Sequence[Line]:
        """Return the studies of which files are here, and what the network is doing."""
        table = Table("in hand", "", box=None)
        for name in sorted(self.at_work):
            series = self.studies.get(name, ())
            if series and not self._has_ended(series):
                table.add_row(name, _IN_HAND.get(_state_of(series), ""))
        tables = [table] if table.row_count else []
        if self.segmented:
            now = datetime.fromtimestamp(self.now, UTC)
            tables.append(table_of_running(self.segmented, now))
        return tables

    def _reasons(self) -> list[tuple[str, str, str]]:
        """Return series that failed, were rejected or are not confirmed."""
        return [
            (entry.name, entry.state, entry.reason)
            for series in self.studies.values()
            for entry in series
            if entry.state in ("rejected", "failed", "unconfirmed")
        ]

    @property
    def _num_left(self) -> int:
        """Number of studies of which something is left to do."""
        return sum(not self._has_ended(series) for series in self.studies.values())

    @property
    def _ended_well(self) -> bool:
        return self.run.ended_at is not None and not self._num_left

    def _has_ended(self, series: Sequence[Entry]) -> bool:
        """Tell whether nothing is left to do for a study in this run, which tries failed ones."""
        state = _state_of(series)
        if state == "failed":
            return _changed_at(series) >= self.run.began_at
        return state in ("pushed", "rejected", "unchosen") or (
            state == "segmented" and not self.run.target
        )

    def _ago(self, seconds: float) -> str:
        return in_words(timedelta(seconds=self.now - seconds))


def read_trip(out: Path) -> TripStatus | None:
    """Read where the last round trip of an output folder stands.

    Returns:
        None if there was none, or `trivox segment` has been run into the folder since.

    Raises:
        PipelineError: If there is no journal, or it cannot be read.
    """
    journal = Journal(out, is_reader=True)
    try:
        cohort = journal.last_run()
        with Ledger(journal.path, is_reader=True) as ledger:
            trip = ledger.last_run()
            if trip is None or _is_later(cohort, trip):
                return None
            studies: dict[str, list[Entry]] = {}
            for entry in ledger.entries():
                if entry.study_uid in trip.studies:
                    studies.setdefault(ledger.name_of(entry.study_uid), []).append(entry)
        segmented = [] if cohort is None else journal.entries(cohort.number)
    finally:
        journal.close()
    # The lock of another machine cannot always be seen.
    is_here = trip.host == platform.node()
    return TripStatus(
        out=out,
        run=trip,
        studies=studies,
        at_work=frozenset(path.name for path in WorkFolders(out).incoming.glob("*")),
        segmented=[entry for entry in segmented if entry.state == "running"],
        is_running=trip.ended_at is None and (is_locked(out, ARCHIVE_LOCK) or not is_here),
        now=time.time(),
    )


def _is_later(cohort: RunRecord | None, trip: TripRecord) -> bool:
    """Tell whether a run of the cohort's is none of the many that a round trip makes."""
    if cohort is None or (cohort.host, cohort.pid) == (trip.host, trip.pid):
        return False
    return datetime.fromisoformat(cohort.started_utc).timestamp() > trip.began_at


def _state_of(series: Sequence[Entry]) -> State:
    return min((entry.state for entry in series), key=_LEAST_FIRST.index)


def _changed_at(series: Sequence[Entry]) -> float:
    return max(entry.changed_at for entry in series)
