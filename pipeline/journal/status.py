"""Where a run stands, read from its journal, also while it is running."""

import platform
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias

from rich.table import Table

from pipeline.errors import PipelineError
from pipeline.journal.journal import Journal
from pipeline.journal.records import Entry, RunRecord, State
from pipeline.system.private import is_locked
from pipeline.system.spelling import spelled

Line: TypeAlias = str | Table

_GO_ON = (
    "Run the command that wrote to this folder again: masks that are whole and match their input "
    "are kept."
)

_SILENT_TIMES, _SILENT_AT_LEAST = 5, timedelta(minutes=1)
"""Of the time from one end of a study to the next; then something may hang."""

SHOWN_REASONS = 20
"""Of studies that were not done; a table has all of them."""

STATES: tuple[State, ...] = ("queued", "running", "done", "corrected", "rejected", "failed")


@dataclass(frozen=True)
class CohortStatus:
    """Where the last run of an output folder stands.

    Attributes:
        out: The output folder.
        run: The run.
        entries: Its studies.
        is_running: Whether its process is alive.
        now: When this was read.
    """

    out: Path
    run: RunRecord
    entries: tuple[Entry, ...]
    is_running: bool
    now: datetime

    @property
    def counts(self) -> dict[State, int]:
        """Number of studies in each state; they sum up to all studies."""
        found = Counter(entry.state for entry in self.entries)
        return {state: found[state] for state in STATES}

    @property
    def is_well(self) -> bool:
        """Whether nothing has gone wrong so far."""
        was_killed = not self.is_running and self.run.ended_utc is None
        return not was_killed and self.counts["rejected"] + self.counts["failed"] == 0

    @property
    def remaining(self) -> timedelta | None:
        """How long the run will still take, by what it did so far; None if that says nothing.

        Nothing is promised where nothing has ended for much longer than studies took so far.
        """
        started = datetime.fromisoformat(self.run.started_utc)
        ended = [
            e for e in self.entries if e.row is not None and e.since_utc >= self.run.started_utc
        ]
        counts = self.counts
        if not self.is_running or not ended:
            return None
        last = max(datetime.fromisoformat(e.since_utc) for e in ended)
        each = (last - started) / len(ended)
        if self.now - last > max(_SILENT_TIMES * each, _SILENT_AT_LEAST):
            return None
        each = (self.now - started) / len(ended)
        return each * (counts["queued"] + counts["running"])

    def lines(self) -> Sequence[Line]:
        """Return what there is to say, to be printed."""
        counts = counts_in_words(self.counts.items(), len(self._warned()))
        lines: list[Line] = [f"{len(self.entries)} studies: {counts}", self._of_the_run()]
        if self.remaining is not None:
            lines.append(f"about {in_words(self.remaining)} to go")
        elif self.is_running and any(entry.row is not None for entry in self.entries):
            lines.append("how long it still takes cannot be told: no study has ended for a while")
        running = [entry for entry in self.entries if entry.state == "running"]
        if running and self.is_running:
            lines.append(table_of_running(running, self.now))
        reasons = [
            (entry.name, entry.state, entry.row.reason)
            for entry in self.entries
            if entry.row is not None and entry.state in ("rejected", "failed")
        ]
        table = self.out / "cohort.csv"
        lines += lines_of_reasons(self._warned(), table, heading="done with warnings")
        return [*lines, *lines_of_reasons(reasons, table)]

    def _warned(self) -> Sequence[tuple[str, str, str]]:
        """Return name, state and warnings of what was done with some."""
        return [
            (entry.name, entry.state, " ".join(entry.row.warnings))
            for entry in self.entries
            if entry.row is not None and entry.row.has_mask and entry.row.warnings
        ]

    def sources(self) -> Sequence[Line]:
        """Return where the input of each study lies."""
        return [f"{entry.name}: {', '.join(entry.sources)}" for entry in self.entries]

    def _of_the_run(self) -> str:
        who = f"process {self.run.pid} on {self.run.host}"
        began = f"run {self.run.number} began {self._ago(self.run.started_utc)} ago"
        if self.is_running:
            return f"{began}, is running ({who}), last entry {self._ago(self.run.seen_utc)} ago"
        if self.run.ended_utc is not None:
            return f"{began}, ended {self._ago(self.run.ended_utc)} ago"
        return f"{began} and was killed; the same command goes on ({who})"

    def _ago(self, time_utc: str) -> str:
        return in_words(self.now - datetime.fromisoformat(time_utc))


def read_status(out: Path) -> CohortStatus:
    """Read where the last run of an output folder stands.

    Raises:
        PipelineError: If there is no journal, it is damaged, or no run is in it.
    """
    journal = Journal(out, is_reader=True)
    try:
        run = journal.last_run()
        if run is None and journal.path.stat().st_size == 0:
            raise PipelineError(journal.path, "the journal is empty", _GO_ON)
        if run is None:
            raise PipelineError(out, "no run has begun here yet", "Start `trivox segment`.")
        entries = tuple(journal.entries(run.number))
    finally:
        journal.close()
    # The lock of another machine cannot always be seen; there the journal's last entry must do.
    is_here = run.host == platform.node()
    is_running = run.ended_utc is None and (is_locked(out) or not is_here)
    return CohortStatus(out, run, entries, is_running, datetime.now(UTC))


def table_of_running(entries: Iterable[Entry], now: datetime) -> Table:
    """Return what is being done with each of these studies, and for how long."""
    table = Table("running", "stage", "for", "attempt", box=None)
    for entry in entries:
        since = in_words(now - datetime.fromisoformat(entry.since_utc))
        table.add_row(spelled(entry.name), entry.stage or "given", since, str(entry.attempts))
    return table


def counts_in_words(counts: Iterable[tuple[str, int]], num_warned: int) -> str:
    """Return the number of studies in each state, those with warnings, and corrected if any are."""
    warned = {"done": f" ({num_warned} with warnings)"} if num_warned else {}
    return ", ".join(
        f"{number} {state}{warned.get(state, '')}"
        for state, number in counts
        if number or state != "corrected"
    )


def lines_of_reasons(
    reasons: Sequence[tuple[str, str, str]], all_in: Path, heading: str = "not done"
) -> Sequence[Line]:
    """Return why studies were not done, as far as there is room.

    Args:
        reasons: Name, state and reason of each.
        all_in: The table that has all of them.
        heading: What they have in common.
    """
    if not reasons:
        return []
    table = Table(heading, "state", "reason", box=None)
    for name, state, reason in reasons[:SHOWN_REASONS]:
        table.add_row(spelled(name), state, spelled(reason))
    num_more = len(reasons) - SHOWN_REASONS
    return [table] if num_more <= 0 else [table, f"and {num_more} more; see {all_in}"]


def in_words(length: timedelta) -> str:
    """Return a length of time for people."""
    seconds = max(0, round(length.total_seconds()))
    hours, minutes = seconds // 3600, seconds // 60 % 60
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds % 60:02d} s" if minutes else f"{seconds} s"
