"""End what belongs to a cluster within a bounded time, whatever does not answer any more."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress

import psutil

logger = logging.getLogger(__name__)

_KILL_S = 5.0
"""That the system may take to end processes that were killed."""


def bounded(end: Callable[[], object], seconds: float) -> bool:
    """Call what may wait for others for ever; tell whether it came back in time.

    What goes wrong with it is no trouble of the run, whose studies have all ended: a time-out
    there is not about a file either.
    """
    came_back = threading.Event()

    def call() -> None:
        try:
            end()
        except Exception:
            logger.debug("a part of the cluster did not end well", exc_info=True)
        finally:
            came_back.set()

    threading.Thread(target=call, daemon=True).start()
    return came_back.wait(seconds)


@contextmanager
def no_process_left() -> Iterator[None]:
    """After the block, end the processes that were started in it and that are there still.

    One that is stopped does not hear that it should end, and Python would wait for it for ever.
    """
    before = set(_children())
    try:
        yield
    finally:
        kill_all([process for process in _children() if process not in before])


def kill_all(processes: Collection[psutil.Process]) -> None:
    """End processes at once, also those that are stopped."""
    for process in processes:
        with suppress(psutil.Error, OSError):
            process.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
    deadline = time.monotonic() + _KILL_S
    while time.monotonic() < deadline and any(map(_is_there, processes)):
        time.sleep(0.05)


def _children() -> list[psutil.Process]:
    """Return the processes below this one, but for Python's tracker, which ends with the last."""
    with suppress(psutil.Error):
        return [
            each
            for each in psutil.Process(os.getpid()).children(recursive=True)
            if "resource_tracker" not in " ".join(_words(each))
        ]
    return []


def _words(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except (psutil.Error, OSError):
        return []


def _is_there(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
