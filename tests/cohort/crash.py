"""Jobs whose segmenter ends or hangs its process at certain studies; worker processes import it."""

import os
import signal
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.cohort import RemoteJob, child
from pipeline.errors import ConfigError


class Crashing:
    """A segmenter that crashes at some studies, and is slow at others."""

    def __init__(self, segmenter, crashes, slow):
        self._segmenter, self._crashes, self._slow = segmenter, crashes, slow

    def __getattr__(self, name):
        return getattr(self._segmenter, name)

    def predict(self, study, sink=None, **options):
        if study.case in self._crashes:
            os.kill(os.getpid(), signal.SIGKILL)
        if study.case in self._slow:
            for step in range(600):
                time.sleep(0.1)
                options["advance"]("windows", step, 600)
        return self._segmenter.predict(study, sink, **options)


@dataclass(frozen=True)
class CrashingJob(RemoteJob):
    crashes: tuple[str, ...] = ()
    slow: tuple[str, ...] = ()

    def make(self):
        job = super().make()
        return replace(job, segmenter=Crashing(job.segmenter, self.crashes, self.slow))


class Hanging:
    """A segmenter that never comes back from some studies."""

    def __init__(self, segmenter, in_segment, in_load):
        self._segmenter, self._in_segment, self._in_load = segmenter, in_segment, in_load

    def __getattr__(self, name):
        return getattr(self._segmenter, name)

    def prepare(self, study, **options):
        if study.case in self._in_load:
            threading.Event().wait()
        return self._segmenter.prepare(study, **options)

    def predict(self, study, sink=None, **options):
        if study.case in self._in_segment:
            threading.Event().wait()
        return self._segmenter.predict(study, sink, **options)


@dataclass(frozen=True)
class HangingJob(RemoteJob):
    in_segment: tuple[str, ...] = ()
    in_load: tuple[str, ...] = ()

    def make(self):
        job = super().make()
        return replace(job, segmenter=Hanging(job.segmenter, self.in_segment, self.in_load))


@dataclass(frozen=True)
class SleepingJob(RemoteJob):
    """It never loads its model."""

    def make(self):
        threading.Event().wait()


@dataclass(frozen=True)
class FalteringJob(CrashingJob):
    """Its process also dies while it loads the model for the second time."""

    starts: Path = Path()

    def make(self):
        number = len(list(self.starts.iterdir()))
        (self.starts / str(number)).touch()
        if number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().make()


@dataclass(frozen=True)
class NamedJob(CrashingJob):
    """It computes on the CPU, whatever its device is called."""

    def make(self):
        return CrashingJob.make(replace(self, device="cpu"))


@dataclass(frozen=True)
class UnfitJob(RemoteJob):
    """Its device cannot be used."""

    def make(self):
        raise ConfigError("device", f"{self.device} is not well", "Mend it.")


@dataclass(frozen=True)
class GoneJob(NamedJob):
    """Its device fails at the first study."""

    def make(self):
        job = super().make()
        child.failure_of = lambda _: "CUDA error: unspecified launch failure"
        return replace(job, segmenter=Gone(job.segmenter, (), ()))


class Gone(Crashing):
    def predict(self, *_, **__):
        raise RuntimeError("CUDA error: unspecified launch failure")


@dataclass(frozen=True)
class DyingJob(RemoteJob):
    def make(self):
        os.kill(os.getpid(), signal.SIGKILL)
