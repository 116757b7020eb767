"""How worker processes are started, from a clean one that has the imports done, and given up.

A process forked from the main one would inherit its threads and its GPU; a new interpreter would
take seconds for the imports each time.
"""

import argparse
import multiprocessing
from multiprocessing.context import BaseContext

HUNG_AFTER_MINUTES = 60.0
"""Even studies of gigabytes take minutes from one sign of life to the next."""

_PRELOADED = "pipeline.cohort.child"


def worker_context() -> BaseContext:
    """Return what starts worker processes."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_PRELOADED])
    return context


def warm_up() -> None:
    """Begin to import what worker processes need, while this process imports what it needs."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        worker_context()
        from multiprocessing import forkserver

        forkserver.ensure_running()


def add_hung_after(parser: argparse.ArgumentParser) -> None:
    """Add how long the process that segments may be silent."""
    parser.add_argument(
        "--hung-after",
        type=_minutes,
        default=HUNG_AFTER_MINUTES,
        metavar="MINUTES",
        help="end this machine's process that segments if it says nothing for so long (default "
        f"{HUNG_AFTER_MINUTES:g}), and try each study that it had in hand once more, alone",
    )


def _minutes(text: str) -> float:
    number = float(text)
    if not number > 0:
        raise ValueError(text)
    return number
