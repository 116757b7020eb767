"""How worker processes are started: from a clean one that has the imports done already.

A process forked from the main one would inherit its threads and its GPU; a new interpreter would
take seconds for the imports each time.
"""

import multiprocessing
from multiprocessing.context import BaseContext

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
