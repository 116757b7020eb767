"""What a journal holds: of each study, and of each run."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args

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
        signature: What it was made from and into, when it ended; see `pipeline.cohort.previous`.
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
        """Return what a row of the journal says.

        Raises:
            ValueError: If it says what Trivox does not write; another kind of error likewise.
        """
        state: State = found["state"]
        if state not in get_args(State):
            raise ValueError(f"no state is called {state!r:.40}")
        row = None if state == "queued" or state == "running" else _row(state, found)
        return cls(
            name=_text(found["name"]),
            row=row,
            state=state,
            stage=_text(found["stage"]),
            since_utc=_time(found["since_utc"]),
            attempts=int(found["attempts"]),
            signature=_text(found["signature"]),
            sources=_texts(found["sources"]),
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
        """Return what a row of the journal says.

        Raises:
            ValueError: If it says what Trivox does not write; another kind of error likewise.
        """
        ended = found["ended_utc"]
        request = json.loads(found["request"])
        if not isinstance(request, dict):
            raise TypeError("a request is no table")
        return cls(
            number=int(found["id"]),
            started_utc=_time(found["started_utc"]),
            seen_utc=_time(found["seen_utc"]),
            ended_utc=None if ended is None else _time(ended),
            host=_text(found["host"]),
            pid=int(found["pid"]),
            request=request,
        )


def _row(status: Status, found: Mapping[str, Any]) -> Row:
    return Row(
        case=found["name"],
        status=status,
        reason=_text(found["reason"]),
        seconds=_numbers(found["seconds"]),
        total_s=_number(found["total_s"]),
        volumes_ml=_numbers(found["volumes_ml"]),
        cause=found["cause"],
        # Journals of earlier versions have no such column as long as they are only read.
        warnings=_texts(dict(found).get("warnings", "[]")),
        incomplete=_texts_or_none(dict(found).get("incomplete", "null")),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} where text should be")
    return value


def _texts(value: str) -> tuple[str, ...]:
    found = json.loads(value)
    if not isinstance(found, list):
        raise TypeError("no list where one should be")
    return tuple(map(_text, found))


def _texts_or_none(value: str) -> tuple[str, ...] | None:
    return None if json.loads(value) is None else _texts(value)


def _number(value: object) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("no number where one should be")
    return float(value)


def _numbers(value: str) -> dict[str, float]:
    return {name: _number(each) for name, each in dict(json.loads(value)).items()}


def _time(value: object) -> str:
    """Return a time as it stands, if it is one, with its zone."""
    if datetime.fromisoformat(_text(value)).tzinfo is None:
        raise ValueError("a time has no zone")
    return _text(value)
