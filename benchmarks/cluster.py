"""Measure workers of a cluster against the one process of a plain run.

    python -m benchmarks.cluster --model runs/msd_hippocampus/model --data Task04_Hippocampus

Each side segments the same studies from files to files, in a folder of its own, on as many cores:
one process that computes with two threads, and two workers of one thread each. Prints a Markdown
page and writes it to benchmarks/cluster.md. Compare ratios, not seconds, across machines.
"""

import argparse
import hashlib
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.common import machine, table
from pipeline.cluster import DaskWorkers
from pipeline.cluster.config import LocalConfig
from pipeline.cohort import RemoteJob, Request, SegmentOptions, run_cohort
from pipeline.cohort.events import Event, Workers
from pipeline.cohort.own_process import OwnProcess
from pipeline.inputs import find_studies
from pipeline.journal import Row
from pipeline.model import hash_model, read_description
from pipeline.system.processes import warm_up
from pipeline.system.progress import CONSOLE

PAGE = Path("benchmarks/cluster.md")
THREADS = 2


@dataclass(frozen=True)
class Measured:
    """One run.

    Attributes:
        total_s: From the call to its end, with starting and ending the workers.
        steady_s: From the first row to the last one.
        num_steady: Studies that ended in that time.
        masks: A hash of all masks.
    """

    total_s: float
    steady_s: float
    num_steady: int
    masks: str


class Clocked:
    """Workers whose rows are timed."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self.ends_s: list[float] = []

    @property
    def capacity(self) -> int:
        return self._workers.capacity

    def __getattr__(self, name: str) -> object:
        return getattr(self._workers, name)

    def wait(self) -> Sequence[Event]:
        events = self._workers.wait()
        self.ends_s += [time.perf_counter() for event in events if isinstance(event, Row)]
        return events


def measure(files: Sequence[Path], model: Path, start: Callable[[RemoteJob], Workers]) -> Measured:
    """Segment the studies once."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        described = read_description(model), hash_model(model)
        request = Request(*described, out, SegmentOptions(), model.absolute())
        remote = RemoteJob(request, "cpu")
        studies = find_studies(files, num_channels=len(request.description.channels), out=out)
        clocked: list[Clocked] = []

        def start_clocked() -> Workers:
            clocked.append(Clocked(start(remote)))
            return clocked[0]

        begun = time.perf_counter()
        result = run_cohort(studies, request, start_clocked)
        total_s = time.perf_counter() - begun
        if not result.all_done:
            sys.exit(f"not all studies were done: {result.counts}")
        digest = hashlib.sha256()
        for path in sorted(out.glob("*_seg.nii.gz")):
            digest.update(path.read_bytes())
    ends = clocked[0].ends_s
    return Measured(total_s, ends[-1] - ends[0], len(ends) - 1, digest.hexdigest())


def cluster(num_workers: int, threads: int) -> Callable[[RemoteJob], Workers]:
    config = LocalConfig(kind="local", workers=num_workers, threads=threads)
    return lambda remote: DaskWorkers(remote, config, logging.WARNING)


SIDES: dict[str, Callable[[RemoteJob], Workers]] = {
    "one process, 2 threads (a plain run)": lambda remote: OwnProcess(remote, logging.WARNING),
    "two Dask workers, 1 thread each": cluster(2, 1),
    "one Dask worker, 2 threads": cluster(1, 2),
}


def main() -> None:
    """Measure all sides in turn and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder with imagesTr")
    parser.add_argument("--studies", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    CONSOLE.quiet = True
    warm_up()
    files = sorted((options.data / "imagesTr").glob("[!.]*.nii.gz"))[: options.studies]
    runs: dict[str, list[Measured]] = {name: [] for name in SIDES}
    for _ in range(options.rounds):
        for name, start in SIDES.items():
            runs[name].append(measure(files, options.model, start))
    PAGE.write_text("\n".join(page(runs, len(files))) + "\n", encoding="utf-8")
    sys.stdout.write(PAGE.read_text("utf-8"))


def page(runs: dict[str, list[Measured]], num_studies: int) -> list[str]:
    """Return the lines of the page."""
    plain = next(iter(runs.values()))
    rounds = len(plain)
    same = len({run.masks for side in runs.values() for run in side}) == 1
    torch.set_num_threads(THREADS)
    rows = []
    for name, side in runs.items():
        ratios = [_per_study(a) / _per_study(b) for a, b in zip(plain, side, strict=True)]
        rows.append(
            [
                name,
                f"{statistics.median(_per_study(run) for run in side):.3f}",
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                f"{statistics.median(run.total_s for run in side):.1f}",
            ]
        )
    masks = "are the same, byte for byte, in all runs" if same else "DIFFER between runs"
    return [
        "# Workers of a cluster, measured",
        "",
        f"`python -m benchmarks.cluster` on {machine()}.",
        "",
        f"{num_studies} hippocampus MRIs, files in, masks out; {rounds} rounds, the sides in turn. "
        f"Seconds a study are counted from the first study's end to the last one's, so they leave "
        "out the start of the workers; the ratio is that of the plain run to the side, round by "
        "round (median, lowest and highest): above 1 is faster. The total has all of it, with the "
        "start of the workers and their end. Other work shared the machine.",
        "",
        *table(["side", "s / study", "throughput, plain run = 1", "total s"], rows),
        "",
        f"The masks {masks}.",
    ]


def _per_study(run: Measured) -> float:
    return run.steady_s / run.num_steady


if __name__ == "__main__":
    main()
