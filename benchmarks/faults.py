"""Measure what faults do: kills, full disks, misbehaving archives, lost workers.

    python -m benchmarks.faults [--part PART ...] [--minutes 18] [--model MODEL] [--anew]

Each part is a set of loops with counts, written to benchmarks/faults.json when it is done; the page
benchmarks/faults.md is made of that. A part that was done at the same commit is not done again
without `--anew`, so that the command can be stopped and given again. Everything is synthetic.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.common import machine, table
from benchmarks.faults_archive import archive
from benchmarks.faults_cluster import cluster
from benchmarks.faults_cohort import cohort, disk, folder, replaced
from benchmarks.faults_ground import Count, Ground, Loop, make_model

PAGE = Path("benchmarks/faults.md")
FIGURES = PAGE.with_suffix(".json")

PARTS: Mapping[str, tuple[Callable[[Ground], Iterator[Loop]], float]] = {
    "cohort": (cohort, 0.15),
    "folder": (folder, 0.08),
    "replaced": (replaced, 0.08),
    "disk": (disk, 0.08),
    "archive": (archive, 0.13),
    "cluster": (cluster, 0.09),
}
"""Each with the share of the time that each of its loops may take."""


def main() -> None:
    """Run the parts that are asked for and not done yet, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--minutes", type=float, default=18.0, help="for all parts together")
    parser.add_argument("--model", type=Path, help="folder of a CT model (default: a tiny one)")
    parser.add_argument("--anew", action="store_true", help="also what is done already")
    options = parser.parse_args()
    commit = commit_now()
    figures = read_figures(FIGURES)
    for part in options.part:
        if not options.anew and figures.get(part, {}).get("commit") == commit:
            continue
        loops: list[Any] = []
        for loop in run_part(part, 60 * options.minutes, options.model):
            loops.append(asdict(loop))
            # Not yet done for a run that goes on from here.
            found = {"commit": f"{commit}, in part", "machine": machine(), "loops": loops}
            write({**read_figures(FIGURES), part: found})
        figures = {**read_figures(FIGURES), part: {**found, "commit": commit}}
        write(figures)
    write(figures)
    sys.stdout.write(PAGE.read_text(encoding="utf-8"))
    sys.exit(0 if all(is_right(figures[part]) for part in options.part) else 1)


def run_part(part: str, budget_s: float, model: Path | None) -> Iterator[Loop]:
    """Give the loops of a part, one after the other."""
    do, share = PARTS[part]
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        work = Path(name)
        model = make_model(work / "model") if model is None else model.absolute()
        began = time.monotonic()
        for loop in do(Ground(work, model, share * budget_s)):
            seconds, began = time.monotonic() - began, time.monotonic()
            print(f"{part}: {loop.name}: {loop.skipped or f'{seconds:.0f} s'}", file=sys.stderr)
            yield replace(loop, seconds=round(seconds, 1))


def read_figures(path: Path) -> dict[str, Any]:
    """Return what was measured before."""
    if not path.is_file():
        return {}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def write(figures: Mapping[str, Any]) -> None:
    """Write figures and page."""
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text("\n".join(page_of(figures)) + "\n", encoding="utf-8")


def page_of(figures: Mapping[str, Any]) -> list[str]:
    """Return the lines of the page."""
    lines = [
        "# Faults, and what became of the work",
        "",
        "`python -m benchmarks.faults`, with a tiny model of random weights and synthetic studies. "
        "Each count with an expected value that differs is marked.",
    ]
    for part in (part for part in PARTS if part in figures):
        found = figures[part]
        lines += ["", f"## {part}", "", f"Commit {found['commit']}, {found['machine']}."]
        for loop in found["loops"]:
            lines += ["", f"### {loop['name']}", ""]
            if loop["skipped"]:
                lines.append(f"Skipped: {loop['skipped']}.")
                continue
            rows = [row_of(Count(**count)) for count in loop["counts"]]
            lines += [f"{loop['how']} {loop['seconds']:.0f} s.", ""]
            lines += table(["what", "expected", "observed", ""], rows)
    return lines


def row_of(count: Count) -> list[str]:
    """Return the cells of a count."""
    expected = "" if count.expected is None else str(count.expected)
    return [count.what, expected, str(count.observed), "" if count.is_right else "**differs**"]


def is_right(found: Mapping[str, Any]) -> bool:
    """Say whether all counts of a part are as expected."""
    return all(Count(**count).is_right for loop in found["loops"] for count in loop["counts"])


def commit_now() -> str:
    """Return the short name of the commit, and whether files differ from it beside the figures."""
    try:
        words = ["git", "rev-parse", "--short=7", "HEAD"]
        name = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
        others = [".", *(f":!{path}" for path in (PAGE, FIGURES))]
        is_clean = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", *others], check=False)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name + " with changes" * (is_clean.returncode != 0)


if __name__ == "__main__":
    main()
