"""Figures as a file, written anew after each: a run that is cut short leaves what it has."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.gpu.figure import Measured


class Record:
    """What was measured so far, `gpu.json` in a folder.

    Args:
        folder: Where it is, or will be. What it holds of earlier runs stays until it is measured
            again.
        run: What this run measures on: device, versions, date, commit.
    """

    def __init__(self, folder: Path, run: Mapping[str, Any] | None = None) -> None:
        self.path = folder / "gpu.json"
        found = self.path.read_text(encoding="utf-8") if self.path.is_file() else "{}"
        self._content: dict[str, Any] = {"runs": {}, "parts": {}, **json.loads(found)}
        self._run = str(1 + max(map(int, self._content["runs"]), default=0))
        if run is not None:
            self._content["runs"][self._run] = dict(run)

    @property
    def runs(self) -> Mapping[str, Mapping[str, Any]]:
        """What runs measured on, by their number; those of which figures are left."""
        used = {
            each["run"]
            for part in self._content["parts"].values()
            for each in (part, *part["figures"].values())
        }
        return {number: run for number, run in self._content["runs"].items() if number in used}

    def part(self, name: str) -> Mapping[str, Any]:
        """Return what is known of a part: `run`, `state`, `reason`, `figures`; empty if nothing."""
        part: Mapping[str, Any] = self._content["parts"].get(name, {})
        return part

    def figures(self, part: str) -> Mapping[str, Mapping[str, Any]]:
        """Return the figures of a part by name: `value`, `note`, `run`."""
        figures: Mapping[str, Mapping[str, Any]] = self.part(part).get("figures", {})
        return figures

    def begin(self, part: str) -> None:
        """Write that a part runs."""
        self._put(part, state="begun", reason="")

    def add(self, part: str, measured: Measured) -> None:
        """Write a figure."""
        found = {"value": measured.value, "note": measured.note, "run": self._run}
        self._put(part, figures={**self.figures(part), measured.name: found})

    def end(self, part: str, reason: str = "") -> None:
        """Write that a part is done, or has failed for a reason."""
        self._put(part, state="failed" if reason else "done", reason=reason)

    def _put(self, part: str, **changes: Any) -> None:  # noqa: ANN401
        before = {"figures": {}, **self.part(part)}
        self._content["parts"][part] = {**before, "run": self._run, **changes}
        content = {**self._content, "runs": self.runs}
        write(self.path, json.dumps(content, indent=1) + "\n")


def write(path: Path, text: str) -> None:
    """Write a file so that there is the old one or the new one, whatever happens meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    Path(temporary).chmod(0o644)
    Path(temporary).replace(path)
