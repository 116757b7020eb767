"""What a journal holds: of each study, and of each run."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.journal.table import Row, Status

Stage = Literal["load", "segment", "write"]
State = Literal["queued", "running", "done", "corrected", "rejected", "failed"]


@dataclass(frozen=True)
class Entry:
    """What the journal knows of one study.

    Attributes:
        name: The study's.
        row: What became of it, if it has ended.
        state: Where it stands.
        stage: What is done with it, while it is running.
        since_utc: Time of its last change, ISO 8601.
        attempts: How often it was begun.
        signature: What it was made from and into, when it ended; see `pipeline.cohort.signature`.
        sources: Where its input lies.
    """

    name: str
    row: Row | None
    state: State
    stage: str
    since_utc: str
    attempts: int
    signature: str
    sources: tuple[str, ...]

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> "Entry":
        """Return what a row of the journal says."""
        state: State = found["state"]
        row = None if state == "queued" or state == "running" else _row(state, found)
        return cls(
            name=found["name"],
            row=row,
            state=state,
            stage=found["stage"],
            since_utc=found["since_utc"],
            attempts=found["attempts"],
            signature=found["signature"],
            sources=tuple(json.loads(found["sources"])),
        )


@dataclass(frozen=True)
class RunRecord:
    """What the journal knows of one run.

    Attributes:
        number: Counted from 1.
        started_utc: ISO 8601, like the two below.
        seen_utc: When it last entered something.
        ended_utc: When it ended by itself; None while it is running, or if it was killed.
        host: Where it ran, as process `pid`.
        request: What was asked for: model, labels, outputs.
    """

    number: int
    started_utc: str
    seen_utc: str
    ended_utc: str | None
    host: str
    pid: int
    request: dict[str, Any]

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> "RunRecord":
        """Return what a row of the journal says."""
        return cls(
            number=found["id"],
            started_utc=found["started_utc"],
            seen_utc=found["seen_utc"],
            ended_utc=found["ended_utc"],
            host=found["host"],
            pid=found["pid"],
            request=json.loads(found["request"]),
        )


def _row(status: Status, found: Mapping[str, Any]) -> Row:
    return Row(
        case=found["name"],
        status=status,
        reason=found["reason"],
        seconds=json.loads(found["seconds"]),
        total_s=found["total_s"],
        volumes_ml=json.loads(found["volumes_ml"]),
        cause=found["cause"],
        # Journals of earlier versions have no such column as long as they are only read.
        warnings=tuple(json.loads(dict(found).get("warnings", "[]"))),
    )
