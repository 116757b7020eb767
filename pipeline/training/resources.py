"""What training takes of the machine, beside what its plan said it would."""

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from ignite.engine import Engine, Events
from pydantic import BaseModel, ConfigDict, Field

from pipeline.files import write_text

logger = logging.getLogger(__name__)

SAMPLING_S = 0.1
WARM_UPS = 3
"""First steps, which are slow and do not count."""


class Resources(BaseModel):
    """What training takes, as planned or as measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    memory_gb: float = Field(
        gt=0,
        description="Peak of a step, in 10^9 bytes: of all processes, or of tensors on a GPU.",
    )
    seconds_per_iteration: float = Field(gt=0, description="With the wait for patches.")


@dataclass
class ResourceMeter:
    """Measures the steps of a trainer; validation in between does not count.

    Attributes:
        device: That the steps run on.
        peak_bytes: Most memory seen in a step so far.
    """

    device: torch.device
    peak_bytes: int = 0

    def __post_init__(self) -> None:
        self._in_step = threading.Event()
        self._started = 0.0
        self._steps = 0
        self._seconds = 0.0

    def attach(self, trainer: Engine) -> None:
        """Watch the steps of `trainer`. Before other handlers, so that theirs do not count."""
        trainer.add_event_handler(Events.GET_BATCH_STARTED, self._start)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._finish)

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Sample the memory of this process and its children, on a CPU, while the block runs."""
        if self.device.type == "cuda":
            yield
            return
        stop = threading.Event()
        sampler = threading.Thread(target=self._sample, args=(stop,), daemon=True)
        sampler.start()
        try:
            yield
        finally:
            stop.set()
            sampler.join()

    @property
    def measured(self) -> Resources | None:
        """What was measured, or None if there were too few steps."""
        if self._steps <= WARM_UPS or not self.peak_bytes:
            return None
        seconds = self._seconds / (self._steps - WARM_UPS)
        return Resources(memory_gb=self.peak_bytes / 1e9, seconds_per_iteration=seconds)

    def _start(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self._started = time.monotonic()
        self._in_step.set()

    def _finish(self) -> None:
        self._in_step.clear()
        self._steps += 1
        if self._steps > WARM_UPS:
            self._seconds += time.monotonic() - self._started
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
        else:
            # A step may be shorter than the time between samples.
            peak = psutil.Process().memory_info().rss
        self.peak_bytes = max(self.peak_bytes, peak)

    def _sample(self, stop: threading.Event) -> None:
        process = psutil.Process()
        of_children, asked = 0, 0.0
        while not stop.wait(SAMPLING_S):
            if not self._in_step.is_set():
                continue
            if time.monotonic() - asked > 5:
                # What the children share with this process is counted with it.
                of_children, asked = _own_bytes_of_children(process), time.monotonic()
            self.peak_bytes = max(self.peak_bytes, process.memory_info().rss + of_children)


def report_resources(planned: Resources | None, meter: ResourceMeter, path: Path) -> None:
    """Write what was measured beside what was planned, and log both; nothing if nothing was."""
    measured = meter.measured
    if measured is None:
        return
    content = {
        "planned": None if planned is None else planned.model_dump(),
        "measured": measured.model_dump(),
    }
    write_text(path, json.dumps(content, indent=2))
    plan = "" if planned is None else f"planned {_words(planned)}; "
    logger.info("%smeasured %s", plan, _words(measured))


def _words(resources: Resources) -> str:
    return f"{resources.memory_gb:.2g} GB, {resources.seconds_per_iteration:.2g} s per iteration"


def _own_bytes_of_children(process: psutil.Process) -> int:
    total = 0
    for child in process.children(recursive=True):
        try:
            total += child.memory_full_info().uss
        except psutil.Error:  # It ended meanwhile, or may not be looked at.
            continue
    return total
