"""Train every network for the same time and compare what comes of it.

    make compare [DATA=/path/to/Task04_Hippocampus] [MINUTES=3]

Each network trains in a process of its own, in runs/compare/. The page is written anew after each;
networks that are finished are not trained again, and one that was stopped goes on. Exit codes: 0
all done; 1 a network failed (the others are done); 130 stopped, to be resumed.
"""

import argparse
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.compare_curves import draw_curves
from benchmarks.compare_page import Section, page, picture
from benchmarks.compare_result import MAX_STUDIES, Result, measure, read_result
from pipeline.config import load_config
from pipeline.errors import PipelineError
from pipeline.inference import choose_device
from pipeline.network import OPTIONS
from pipeline.planning.estimate import measure_seconds
from pipeline.system.files import write_text
from pipeline.training import RunConfig
from pipeline.training.data import open_manifest

NUM_VALIDATIONS = 8
"""In between, about, for the curves; as many for cheap networks as for dear ones."""
ITERATIONS_PER_EPOCH = 10
"""Few, so that even slow networks have curves."""
INTERRUPTED = 130


class Stopped(Exception):  # noqa: N818
    """The user stopped a training."""


@dataclass(frozen=True)
class DataSet:
    """What to train on.

    Attributes:
        name: Of the files.
        title: Of the section.
        config: The experiment that all networks share but for the budget.
        overrides: Changes to it.
        note: Why nothing is trained, if so.
    """

    name: str
    title: str
    config: Path
    overrides: tuple[str, ...] = ()
    note: str = ""

    def words(self, network: str, options: argparse.Namespace) -> list[str]:
        """Return what `trivox train` takes."""
        return [
            str(self.config),
            f"name={self.name}_{network}",
            f"output={options.runs / f'{options.minutes:g}min'}",
            f"network.name={network}",
            f"training.max_minutes={options.minutes:g}",
            "training.max_iterations=null",
            f"training.iterations_per_epoch={ITERATIONS_PER_EPOCH}",
            *self.overrides,
        ]

    def load(self, network: str, options: argparse.Namespace) -> RunConfig:
        """Return the configuration of a run."""
        config, *overrides = self.words(network, options)
        return load_config(RunConfig, Path(config), overrides)


def main() -> int:
    """Run what is missing; write the page after each network."""
    options = parse(sys.argv[1:])
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    comparison = Comparison(options)
    try:
        comparison.run()
    except (KeyboardInterrupt, Stopped):
        print("stopped; the same command goes on")
        return INTERRUPTED
    print(f"the page: {options.out}")
    return 1 if any(comparison.failures.values()) else 0


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train every network for the same time.")
    parser.add_argument(
        "--data", type=Path, help="the folder Task04_Hippocampus; none: phantom only"
    )
    parser.add_argument("--minutes", type=float, default=3.0, help="of training for each network")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/architectures.md"))
    parser.add_argument("--runs", type=Path, default=Path("runs/compare"))
    return parser.parse_args(words)


def data_sets(data: Path | None) -> tuple[DataSet, ...]:
    """Return the data sets of the comparison."""
    phantom = DataSet("phantom", "Synthetic abdominal CT", Path("configs/phantom_ct.yaml"))
    root = (f"data.root={data}",) if data else ()
    note = "" if data else "Give DATA=/path/to/Task04_Hippocampus to train on this data set."
    config = Path("configs/msd_hippocampus.yaml")
    title = "Hippocampus (MRI), fold 0 of 5, averaged over left-right flips"
    return phantom, DataSet("hippocampus", title, config, root, note)


class Comparison:
    """The state of a comparison: what is finished, and what failed in this run of it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._data_sets = data_sets(options.data)
        self.failures: dict[str, dict[str, str]] = {one.name: {} for one in self._data_sets}

    def run(self) -> None:
        """Train and measure every network that is not finished."""
        self.write()
        todo = [
            (data_set, network)
            for data_set in self._data_sets
            for network in OPTIONS
            if not data_set.note and self._result(data_set, network) is None
        ]
        for number, (data_set, network) in enumerate(todo, start=1):
            left = (len(todo) - number + 1) * self._options.minutes
            text = f"{number} of {len(todo)}: {data_set.name}, {network}"
            print(f"{text} (at least {left:.3g} min left)", flush=True)
            try:
                self._do(data_set, network)
            except (PipelineError, RuntimeError, ValueError, OSError) as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                self.failures[data_set.name][network] = reason
                print(f"failed: {reason}", flush=True)
            self.write()

    def write(self) -> None:
        """Write the page and the pictures with what is there."""
        sections = [self._section(data_set) for data_set in self._data_sets]
        for section in sections:
            if section.results:
                path = picture(self._options.out, section)
                title = f"{section.title}: {self._options.minutes:g} minutes each"
                draw_curves(section.results, list(section.networks), title, path)
        text = page(
            sections,
            self._options.out,
            minutes=self._options.minutes,
            num_validations=NUM_VALIDATIONS,
            num_studies=MAX_STUDIES,
        )
        write_text(self._options.out, text)

    def _section(self, data_set: DataSet) -> Section:
        found = {network: self._result(data_set, network) for network in OPTIONS}
        return Section(
            data_set.name,
            data_set.title,
            f"make compare DATA=/path/to/Task04_Hippocampus MINUTES={self._options.minutes:g}",
            tuple(OPTIONS),
            {network: result for network, result in found.items() if result is not None},
            self.failures[data_set.name],
            data_set.note,
        )

    def _result(self, data_set: DataSet, network: str) -> Result | None:
        return read_result(data_set.load(network, self._options).folder)

    def _do(self, data_set: DataSet, network: str) -> None:
        config = data_set.load(network, self._options)
        epochs = epochs_between_validations(config)
        words = [
            *data_set.words(network, self._options),
            f"training.validate_every_epochs={epochs}",
        ]
        train(words, config.folder.with_suffix(".log"))
        measure(config)


def epochs_between_validations(config: RunConfig) -> int:
    """Time some steps to find how many epochs pass from one point of the Dice curve to the next."""
    seconds = measure_seconds(config, open_manifest(config), choose_device(config.device))
    budget_s = 60 * (config.training.max_minutes or 0.0)
    return max(1, round(budget_s / NUM_VALIDATIONS / (ITERATIONS_PER_EPOCH * seconds)))


def train(words: Sequence[str], log: Path, threads: int | None = None) -> None:
    """Train, or go on with it, as `run_trivox` does."""
    run_trivox(["train", *words, "--resume"], log, threads)


def run_trivox(words: Sequence[str], log: Path, threads: int | None = None) -> None:
    """Give a command in another process, so that its memory is its own.

    Args:
        words: Of the command.
        log: Takes what it says.
        threads: That it may take; all there are by default.

    Raises:
        Stopped: If it was told to stop.
        RuntimeError: If it failed; the last line that it wrote says why.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    bound = [] if threads is None else ["env", f"OMP_NUM_THREADS={threads}"]
    command = [*bound, sys.executable, "-m", "pipeline", *words]
    with log.open("ab") as file:
        # A session of its own: Ctrl-C reaches it once, from here, and it saves its state.
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
    if code == INTERRUPTED:
        raise Stopped
    if code:
        lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
        found = f"killed by signal {-code}" if code < 0 else (lines or ["no reason given"])[-1]
        raise RuntimeError(f"{found} (see {log})")


if __name__ == "__main__":
    sys.exit(main())
