"""Let two loops run by turns, each in its own process, and the other one stand still meanwhile."""

import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import psutil
import torch

from benchmarks.training_plain import Plain
from benchmarks.training_sides import Ours, Setup

SIDES = {"plain": Plain, "ours": Ours}
POLL_S = 0.2
CHILDREN_S = 2.0
"""Between looks at the memory of the loader's processes, which take a while themselves."""


class Worker:
    """A loop in a process of its own.

    Args:
        side: Its name.
        setup: What it learns from.
        cores: That it may use, with its loader's processes; 0: all.

    Attributes:
        peak_bytes: Most memory seen while it worked: its own, and what its loader's processes do
            not share with it.
    """

    def __init__(self, side: str, setup: Setup, cores: int = 0) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        # Its loader's processes start as they do in training, not as it does itself.
        start = multiprocessing.get_start_method()
        self._process = context.Process(target=_serve, args=(theirs, side, setup, start, cores))
        self._process.start()
        theirs.close()
        self._tree = psutil.Process(self._process.pid)
        self.peak_bytes = self._of_children = 0
        self._asked = 0.0

    def call(self, method: str, *arguments: object) -> Any:  # noqa: ANN401
        """Call a method of the side and return what it returns; it stands still before and after.

        Raises:
            RuntimeError: If its process ended.
        """
        with self._awake():
            self._connection.send((method, arguments))
            while not self._connection.poll(POLL_S):
                self._look_at_memory()
            try:
                return self._connection.recv()
            except EOFError as error:
                raise RuntimeError(f"{method}: the process ended; see above") from error

    def close(self) -> None:
        """End the process and its loader's."""
        if self._process.is_alive():
            self._let_children(psutil.Process.resume)
            self._connection.send(None)
            self._process.join()

    @contextmanager
    def _awake(self) -> Iterator[None]:
        """Stop the processes that load ahead, but for the time of the block."""
        self._let_children(psutil.Process.resume)
        try:
            yield
        finally:
            self._let_children(psutil.Process.suspend)

    def _let_children(self, do: Any) -> None:  # noqa: ANN401
        try:
            for child in self._tree.children(recursive=True):
                do(child)
        except psutil.NoSuchProcess:
            return

    def _look_at_memory(self) -> None:
        try:
            if time.monotonic() - self._asked > CHILDREN_S:
                children = self._tree.children(recursive=True)
                self._of_children = sum(child.memory_full_info().uss for child in children)
                self._asked = time.monotonic()
            held = self._tree.memory_info().rss + self._of_children
        except psutil.Error:  # A process ended in between.
            return
        self.peak_bytes = max(self.peak_bytes, held)


def _serve(connection: Connection, name: str, setup: Setup, start: str, cores: int) -> None:
    multiprocessing.set_start_method(start, force=True)
    # Else the end of the shell that started all this would hang up on it, since some stand still.
    os.setsid()
    if cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
        torch.set_num_threads(cores)
    try:
        side = SIDES[name](setup)
        while (request := connection.recv()) is not None:
            method, arguments = request
            connection.send(getattr(side, method)(*arguments))
    except EOFError:
        print(f"{name}: the benchmark ended", file=sys.stderr)
    finally:
        # At once, since loaders that stand still would be waited for.
        for child in psutil.Process().children(recursive=True):
            child.kill()
    connection.close()
    os._exit(0)
