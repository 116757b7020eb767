"""How worker processes are started, from a clean one that has the imports done, and given up.

A process forked from the main one would inherit its threads and its GPU; a new interpreter would
take seconds for the imports each time.
"""

import argparse
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Literal

HUNG_AFTER_MINUTES = 60.0
"""Even studies of gigabytes take minutes from one sign of life to the next."""

STOPPING = tuple(
    number
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if (number := getattr(signal, name, None)) is not None
)
"""Signals that end a run in an orderly way; a terminal sends them to all its processes."""

_PRELOADED = "pipeline.system.preload"

_LONGEST_FOLDER = 70
"""Bytes of the folder for temporary files; the path of a socket may have 107 in all."""


def start_method() -> Literal["forkserver", "spawn"]:
    """Return how processes are started here.

    A process to fork from is spoken to through a socket in the folder for temporary files; where
    that has too long a path, each process imports all by itself.
    """
    is_known = "forkserver" in multiprocessing.get_all_start_methods()
    fits = len(os.fsencode(tempfile.gettempdir())) <= _LONGEST_FOLDER
    return "forkserver" if is_known and fits else "spawn"


def worker_context() -> BaseContext:
    """Return what starts worker processes."""
    if start_method() == "spawn":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_PRELOADED])
    return context


def warm_up() -> None:
    """Begin to import what worker processes need, while this process imports what it needs."""
    if start_method() == "forkserver":
        worker_context()
        from multiprocessing import forkserver

        with unheard_by_children():
            forkserver.ensure_running()


@contextmanager
def unheard_by_children() -> Iterator[None]:
    """Let processes that are started in the block hear of no signal that is meant for this one.

    Else one that imports still would say so at length. What is sent meanwhile comes afterwards.
    SIGTERM still ends them: that is how they are ended.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        if start_method() == "forkserver":
            # It lets the others through again as it starts, and ignores them itself.
            resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, set(STOPPING) - {signal.SIGTERM})
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def waited_s() -> float:
    """Return how long this process's threads were ready to run and had no core, so far.

    Source: docs.kernel.org/scheduler/sched-stats.html, the second number in nanoseconds.
    """
    waited_ns = 0
    for thread in Path("/proc/self/task").glob("*/schedstat"):
        try:
            waited_ns += int(thread.read_text("ascii").split()[1])
        except (OSError, ValueError, IndexError):  # The thread has ended, or nothing is counted.
            continue
    return waited_ns / 1e9


def add_hung_after(parser: argparse.ArgumentParser) -> None:
    """Add how long the process that segments may be silent."""
    parser.add_argument(
        "--hung-after",
        type=_minutes,
        default=HUNG_AFTER_MINUTES,
        metavar="MINUTES",
        help="give up a process that segments, here or a worker of a cluster, if it says nothing "
        f"for so long (default {HUNG_AFTER_MINUTES:g}): it is ended, and each study that it had in "
        "hand is tried once more, alone or by another worker",
    )


def _minutes(text: str) -> float:
    number = float(text)
    if not number > 0:
        raise ValueError(text)
    return number
