"""Time on a device: seconds of what it is asked for, its arithmetic, and whether it is busy."""

import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

SAMPLING_MS = 100
PEAK_EDGE = 8192
"""Of the matrices whose product tells how fast a GPU is at its best."""


def synchronize(device: torch.device) -> None:
    """Wait until a device has done all that it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(task: Callable[[], object], device: torch.device, least_s: float = 0.3) -> float:
    """Return the seconds of a task, on average over about `least_s` after one that is not timed."""
    task()
    synchronize(device)
    start = time.perf_counter()
    task()
    synchronize(device)
    once = time.perf_counter() - start
    count = max(1, min(200, round(least_s / max(once, 1e-6))))
    start = time.perf_counter()
    for _ in range(count):
        task()
    synchronize(device)
    return (time.perf_counter() - start) / count


def peak_flops(device: torch.device, edge: int = PEAK_EDGE) -> float:
    """Return the operations a second that a device reaches in a large bfloat16 product."""
    a, b = (torch.randn(edge, edge, device=device, dtype=torch.bfloat16) for _ in "ab")
    out = torch.empty_like(a)
    return 2 * edge**3 / seconds_of(lambda: torch.mm(a, b, out=out), device)


@dataclass
class Busy:
    """How busy a GPU was while a block ran.

    Attributes:
        seconds: That the block took.
        share: Of that time in which a kernel or a copy ran; None if that could not be traced.
        copies: The same of copies alone.
        sampled: Mean of what the driver says, which counts whole periods in which anything ran;
            None if it says nothing.
    """

    seconds: float = 0.0
    share: float | None = None
    copies: float | None = None
    sampled: float | None = None
    asked: list[float] = field(default_factory=list)

    @property
    def note(self) -> str:
        """The figures beside the share, in words."""
        words = [f"{self.seconds:.2f} s"]
        if self.copies is not None:
            words.append(f"copies {self.copies:.1%}")
        if self.sampled is not None:
            words.append(f"the driver's own figure {self.sampled:.0%}")
        return ", ".join(words)


@contextmanager
def busy(device: torch.device) -> Iterator[Busy]:
    """Trace which part of a block's time a GPU computes or copies; on a CPU only the time.

    Only what runs on the GPU is traced, which slows the host down by a few microseconds a kernel.
    """
    found = Busy()
    if device.type != "cuda":
        start = time.perf_counter()
        yield found
        found.seconds = time.perf_counter() - start
        return
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as tracing:
        synchronize(device)
        with gpu_sampled(found.asked, device):
            start = time.perf_counter()
            yield found
            synchronize(device)
            found.seconds = time.perf_counter() - start
    found.sampled = statistics.mean(found.asked) if found.asked else None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        tracing.export_chrome_trace(str(path))
        events = json.loads(path.read_text("utf-8"))["traceEvents"]
    kernels, copies = _intervals(events, "kernel"), _intervals(events, "gpu_mem")
    if kernels:
        found.share = covered(kernels + copies) / 1e6 / found.seconds
        found.copies = covered(copies) / 1e6 / found.seconds


def _intervals(events: Sequence[Mapping[str, Any]], kind: str) -> list[tuple[float, float]]:
    """Return when events of a kind began and ended, in microseconds."""
    return [
        (float(event["ts"]), float(event["ts"]) + float(event["dur"]))
        for event in events
        if event.get("ph") == "X" and str(event.get("cat", "")).startswith(kind)
    ]


def covered(intervals: Sequence[tuple[float, float]]) -> float:
    """Return the length of the union of intervals."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(intervals):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


@contextmanager
def gpu_sampled(shares: list[float], device: torch.device) -> Iterator[None]:
    """Append to `shares` how busy the driver says a GPU is, while the block runs, if it says so."""
    if device.type != "cuda" or shutil.which("nvidia-smi") is None:
        yield
        return
    query = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    query += ["-lms", str(SAMPLING_MS), "-i", name_for_driver(device)]
    with subprocess.Popen(["nvidia-smi", *query], stdout=subprocess.PIPE, text=True) as asking:
        try:
            yield
        finally:
            asking.terminate()
            told, _ = asking.communicate()
            shares += [float(word) / 100 for word in told.split() if word.isdigit()]


def name_for_driver(device: torch.device) -> str:
    """Return what the driver calls a GPU, whatever `CUDA_VISIBLE_DEVICES` says."""
    properties = torch.cuda.get_device_properties(device)
    uuid = getattr(properties, "uuid", None)
    return f"GPU-{uuid}" if uuid is not None else str(device.index or 0)
