"""What was found so far, `planning.json`: written after every run, by one process at a time."""

import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.system.files import write_text

PARTS = ("steps", "runs", "failures")
METRICS = ("dice", "hd95_mm", "nsd", "volume_error_percent", "stray_mm")

CHOOSE, COMPARE = slice(0, None, 2), slice(1, None, 2)
"""Test cases by their place in the list: even ones choose among plans, odd ones compare."""

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """The scores of the test cases, each the mean over labels; NaN where undefined.

    Attributes:
        cases: Names, sorted.
        values: By metric, `(N,)`, in the order of the cases.
    """

    cases: Sequence[str]
    values: Mapping[str, Values]

    def mean(self, metric: str, half: slice = slice(None)) -> float:
        """Return the mean over the cases of a half, or over all."""
        return float(np.nanmean(self.values[metric][half]))

    def share_within(self, most_mm: float) -> float:
        """Return the share of cases without a stray piece beyond a distance."""
        return float(np.mean(self.values["stray_mm"] <= most_mm))

    def as_json(self) -> dict[str, Any]:
        """Return what `of` reads."""
        rounded = {name: [round(float(v), 5) for v in self.values[name]] for name in METRICS}
        return {"cases": list(self.cases), **rounded}

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> "Scores":
        """Read what `as_json` gave."""
        return cls(found["cases"], {name: np.array(found[name], float) for name in METRICS})


@dataclass(frozen=True)
class Content:
    """What the file says.

    Attributes:
        steps: By what a step depends on: `seconds` and `how` they were found.
        runs: Finished runs by key.
        failures: Why a run could not be done, by key.
    """

    steps: Mapping[str, Any] = field(default_factory=dict)
    runs: Mapping[str, Any] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)

    def scores(self, key: str) -> Scores | None:
        """Return the scores of a run that is finished."""
        return Scores.of(self.runs[key]["scores"]) if key in self.runs else None


class Record:
    """The file, shared by processes that each do a part of the runs.

    Args:
        path: Of the file.
        lock: Locked while the file is changed.
    """

    def __init__(self, path: Path, lock: Path) -> None:
        self.path = path
        self._lock = lock

    def read(self) -> Content:
        """Return what the file says now."""
        if not self.path.is_file():
            return Content()
        return Content(**json.loads(self.path.read_text(encoding="utf-8")))

    def put(self, part: str, key: str, value: object) -> Content:
        """Write a value, or remove it if it is None; return the whole content."""
        with locked(self._lock):
            content = {name: dict(getattr(self.read(), name)) for name in PARTS}
            content[part].pop(key, None)
            if value is not None:
                content[part][key] = value
            write_text(self.path, _text(content))
        return self.read()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait until no other process is in a block with this lock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _text(content: Mapping[str, Mapping[str, object]]) -> str:
    """One line an entry, sorted, so that versions can be compared."""
    parts = []
    for name, entries in content.items():
        lines = [f"  {json.dumps(key)}: {json.dumps(entries[key])}" for key in sorted(entries)]
        parts.append(f" {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n }")
    return "{\n" + ",\n".join(parts) + "\n}\n"
