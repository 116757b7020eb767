"""Main memory: how much of it this process may use, and how it holds what it uses.

It may use that of the machine, or of its container or job: those and schedulers such as Slurm limit
memory by control groups, which the figures of the whole machine do not show; who goes beyond such a
limit is killed.

Source:
    Linux control groups, https://docs.kernel.org/admin-guide/cgroup-v2.html and
    https://docs.kernel.org/admin-guide/cgroup-v1/memory.html.
"""

import ctypes
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import psutil

from pipeline.errors import ConfigError

ROOT = Path("/")

SAMPLING_S = 0.01

_UNITS_GB = {
    **{"": 1.0, "g": 1.0, "gb": 1.0, "gib": 2**30 / 1e9},
    **{"m": 1e-3, "mb": 1e-3, "mib": 2**20 / 1e9, "t": 1e3, "tb": 1e3, "tib": 2**40 / 1e9},
}

_FILES = {
    "2": ("memory.max", "memory.current", ("inactive_file", "active_file")),
    "1": (
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
    ),
}
"""Limit, use, and what of the use is a cache of files, which gives way; by version."""

_MALLOC_OPTIONS = {"M_MMAP_THRESHOLD": -3, "M_TRIM_THRESHOLD": -1}
"""Numbers in glibc's malloc.h of what decides when freed memory goes back to the system."""
_KEPT_BYTES = 2**30


def total_bytes(root: Path = ROOT) -> int:
    """Return the main memory of the machine, or less where a control group limits it.

    Args:
        root: Where `proc` and `sys` lie.
    """
    limits = [limit for limit, _ in _limits_and_use(root)]
    return min([int(psutil.virtual_memory().total), *limits])


def available_bytes(root: Path = ROOT) -> int:
    """Return the memory that can still be had, of the machine and within every control group."""
    left = [max(0, limit - use) for limit, use in _limits_and_use(root)]
    return min([int(psutil.virtual_memory().available), *left])


def resident_bytes() -> int:
    """Return the main memory that this process holds now."""
    return int(psutil.Process().memory_info().rss)


class PeakMeter:
    """Samples the memory of this process while a block runs.

        with PeakMeter() as meter:
            work()
        meter.peak_bytes

    Attributes:
        peak_bytes: Most that was seen.
    """

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._stop = threading.Event()

    def __enter__(self) -> Self:
        self._look()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._sampler.join()
        self._look()

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLING_S):
            self._look()

    def _look(self) -> None:
        self.peak_bytes = max(self.peak_bytes, resident_bytes())


def reuse_freed() -> None:
    """Let this process use freed memory again, up to 1 GiB of it, where the C library is glibc.

    It would return that of each large tensor to the system, and the next tensor of that size would
    wait for the system to clear it page by page: a fifth of the time of a training step.

    Source:
        https://man7.org/linux/man-pages/man3/mallopt.3.html.
    """
    if mallopt := _c_function("mallopt"):
        for option in _MALLOC_OPTIONS.values():
            mallopt(option, _KEPT_BYTES)


def give_back_freed() -> None:
    """Return to the system what this process holds and does not use, where the library is glibc.

    Source:
        https://man7.org/linux/man-pages/man3/malloc_trim.3.html.
    """
    if trim := _c_function("malloc_trim"):
        trim(0)


def _c_function(name: str) -> Callable[..., int] | None:
    """Find a function of the C library, if it has it."""
    return getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None


def _limits_and_use(root: Path) -> Iterator[tuple[int, int]]:
    """Yield limit and use, in bytes, of each control group that the process is in and limits it."""
    for folder, version in _groups(root):
        limit_name, use_name, cache_names = _FILES[version]
        try:
            limit = int((folder / limit_name).read_text("ascii"))
            use = int((folder / use_name).read_text("ascii"))
            lines = (folder / "memory.stat").read_text("ascii").splitlines()
        except (OSError, ValueError):  # Not there, or no limit, which is written as `max`.
            continue
        stat = dict(line.split() for line in lines)
        yield limit, use - sum(int(stat.get(name, 0)) for name in cache_names)


def _groups(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield the folder and version of the process's groups for memory and of all around them."""
    try:
        lines = (root / "proc/self/cgroup").read_text("utf-8").splitlines()
    except OSError:  # No Linux.
        return
    for line in lines:
        _, controllers, path = line.split(":", maxsplit=2)
        if controllers and "memory" not in controllers.split(","):
            continue
        version = "1" if controllers else "2"
        top = root / ("sys/fs/cgroup/memory" if controllers else "sys/fs/cgroup")
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(top):
                yield folder, version


def parse_memory(text: str) -> float:
    """Return an amount of memory such as `8GB`, `512MB` or `8` in GB (10^9 bytes).

    Raises:
        ConfigError: If it is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower())
    if match is None or match[2] not in _UNITS_GB or float(match[1]) == 0:
        raise ConfigError("--memory", f"{text!r} is no amount of memory", "Write it as 8GB.")
    return float(match[1]) * _UNITS_GB[match[2]]
