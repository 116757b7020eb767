"""The page of what was measured, made of the figures' file alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.common import table
from benchmarks.gpu.figure import Figure
from benchmarks.gpu.parts import PARTS, find_part
from benchmarks.gpu.record import Record, write

HOW = (
    "`python -m benchmarks.gpu` (README, On a GPU) measures all parts in nine minutes, "
    "`--part NAME` one of them. Figures that miss their target are marked."
)


def write_page(record: Record) -> None:
    """Write `gpu.md` beside the figures."""
    write(record.path.with_suffix(".md"), "\n".join(page_of(record)) + "\n")


def page_of(record: Record) -> list[str]:
    """Return the lines of the page."""
    lines = ["# On a GPU", "", HOW, ""]
    lines += [f"Run {number}: {run_in_words(run)}." for number, run in record.runs.items()] or [
        "Nothing of this has run on a GPU yet."
    ]
    for name in PARTS:
        part, found = find_part(name), record.part(name)
        lines += ["", f"## {name}", "", part.__doc__.partition("\n")[0], ""]
        if found and found["state"] != "done":
            reason = found["reason"] or "cut short"
            lines += [f"**Run {found['run']}: {reason}.**", ""]
        figures = record.figures(name)
        rows = [row_of(figure, figures.get(figure.name)) for figure in part.FIGURES]
        lines += table(["figure", "value", "target", "run", "note"], rows)
    return lines


def run_in_words(run: Mapping[str, Any]) -> str:
    """Say what a run measured on."""
    tiny = ", tiny data" * run["tiny"]
    return (
        f"{run['device']} (driver {run['driver']}, CUDA {run['cuda']}), torch {run['torch']}, "
        f"Python {run['python']}, {run['cores']} cores, {run['date']}, commit {run['commit']}{tiny}"
    )


def row_of(figure: Figure, found: Mapping[str, Any] | None) -> list[str]:
    """Return the cells of a figure."""
    target = " and ".join(
        f"{word} {number:g}"
        for word, number in (("at least", figure.least), ("at most", figure.most))
        if number is not None
    )
    first = f"`{figure.name}`: {figure.what}"
    if found is None:
        return [first, "not run", target, "", ""]
    value = in_words(found["value"], figure.unit)
    missed = "" if figure.is_met(found["value"]) else " **missed**"
    return [first, value + missed, target, found["run"], one_line(found["note"])]


def in_words(value: float | str | None, unit: str) -> str:
    """Return a value with its unit, to four digits."""
    if value is None:
        return "not measured"
    digits = f"{value:.4g}" if isinstance(value, float) and abs(value) < 1e4 else one_line(value)
    return f"{digits} {unit}".strip()


def one_line(value: object) -> str:
    """Return words as they may stand in a cell of a table."""
    return " ".join(str(value).split()).replace("|", "\\|")


def is_right(record: Record, parts: list[str]) -> bool:
    """Tell whether parts are done and no proof has failed."""
    return all(record.part(name).get("state") == "done" for name in parts) and all(
        figure.is_met(found["value"])
        for name in parts
        for figure in find_part(name).FIGURES
        if figure.is_proof and (found := record.figures(name).get(figure.name))
    )


def default_folder(root: Path, device: str, *, tiny: bool) -> Path:
    """Return where figures go: those of a GPU into the project, others where nothing is kept."""
    return root / "benchmarks" if device.startswith("cuda") and not tiny else root / "build" / "gpu"
