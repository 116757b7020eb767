"""Hold the plans that `trivox plan` makes against plans made by hand, for equal minutes.

    python -m benchmarks.planning --data /path/to/Task04_Hippocampus

The record benchmarks/planning.json and the page benchmarks/planning.md are written anew after each
run, the most telling runs first; the same command goes on where it was stopped. Two processes may
work on disjoint parts (`--only large_organ --threads 1`, `--only hippocampus --threads 1`). Exit
codes: 0 all done; 1 a run failed (the others are done); 130 stopped, to be resumed.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.compare import INTERRUPTED, Stopped
from benchmarks.planning.grounds import HIPPOCAMPUS
from benchmarks.planning.page import page
from benchmarks.planning.record import Content, Record, locked
from benchmarks.planning.runs import CORES, Options, Worker
from benchmarks.planning.schedule import Run, schedule
from pipeline.errors import PipelineError
from pipeline.system.files import write_text

PAGE = Path("benchmarks/planning.md")


def main(words: Sequence[str]) -> int:
    """Do the runs that are asked for and not done yet."""
    options = parse(words)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    record = Record(options.out.with_suffix(".json"), options.work / "locks" / "record")
    how = Options(options.work, options.data, options.threads, options.clock, options.keep)
    bench = Bench(Worker(how, record), record, options)
    try:
        if options.anew:
            bench.forget()
        bench.prepare() if options.prepare else bench.run()
    except (KeyboardInterrupt, Stopped):
        print("stopped; the same command goes on")
        return INTERRUPTED
    print(f"the page: {options.out}")
    return 1 if bench.failed else 0


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.planning", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--data", type=Path, help="the folder Task04_Hippocampus; none: phantoms")
    parser.add_argument("--work", type=Path, default=Path("runs/planning"), help="for all else")
    parser.add_argument("--out", type=Path, default=PAGE, help="the page; the record lies beside")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="WORD",
        default=[""],
        help="runs whose name DATA/PLAN/MINUTES has one of these words in it",
    )
    parser.add_argument("--threads", type=int, default=CORES, help="of a training")
    parser.add_argument("--clock", action="store_true", help="end runs by the clock")
    parser.add_argument("--keep", action="store_true", help="keep masks and checkpoints")
    parser.add_argument(
        "--prepare",
        action="store_true",
        help="only make the data, the plans and the time of a step of each: for an idle machine",
    )
    parser.add_argument(
        "--anew", action="store_true", help="forget first what is known of the runs of --only"
    )
    options = parser.parse_args(words)
    if options.anew and options.only == [""]:
        parser.error("--anew needs --only")
    return options


class Bench:
    """Does runs one after the other, and says what became of them.

    Args:
        worker: Does a run.
        record: Of all runs.
        options: Of the command line.
    """

    def __init__(self, worker: Worker, record: Record, options: argparse.Namespace) -> None:
        self._worker = worker
        self._record = record
        self._options = options
        self.failed: set[str] = set()

    def run(self) -> None:
        """Do what is missing; runs that follow from others are named once those are done."""
        content = self._record.read()
        self._write(content)
        while missing := [run for run in self._wanted(content) if self._is_missing(run, content)]:
            run = missing[0]
            print(f"{run.key} ({len(missing)} to do)", flush=True)
            try:
                content = self._worker.do(run)
                dice = content.runs[run.key]["scores"]["dice"]
                print(f"{run.key}: Dice {sum(dice) / len(dice):.4f}", flush=True)
            except (PipelineError, RuntimeError, ValueError, OSError) as error:
                content = self._fail(run, error)
            self._write(content)

    def prepare(self) -> None:
        """Make what runs start from."""
        for run in self._wanted(self._record.read()):
            print(run.key, flush=True)
            try:
                self._worker.prepare(run)
            except (PipelineError, RuntimeError, ValueError, OSError) as error:
                self._fail(run, error)

    def forget(self) -> None:
        """Forget the runs that are named."""
        for run in self._wanted(self._record.read()):
            self._worker.forget(run)

    def _wanted(self, content: Content) -> list[Run]:
        has_data = self._options.data is not None
        return [
            run
            for run in schedule(content)
            if any(word in run.key for word in self._options.only)
            and (has_data or run.data not in HIPPOCAMPUS)
        ]

    def _is_missing(self, run: Run, content: Content) -> bool:
        return run.key not in content.runs and run.key not in self.failed

    def _fail(self, run: Run, error: Exception) -> Content:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        print(f"{run.key} failed: {reason}", flush=True)
        self.failed.add(run.key)
        return self._record.put("failures", run.key, reason)

    def _write(self, content: Content) -> None:
        with locked(self._options.work / "locks" / "page"):
            write_text(self._options.out, page(content))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
