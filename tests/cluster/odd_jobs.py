"""Jobs that misbehave at certain studies; imported by workers too."""

import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.cohort import RemoteJob


class OddSegmenter:
    """A segmenter that ends its process at some studies, and is slow at others."""

    def __init__(self, segmenter, folder):
        self._segmenter, self._folder = segmenter, folder

    def __getattr__(self, name):
        return getattr(self._segmenter, name)

    def predict(self, study, sink=None, **options):
        """Note that the study was begun; `always` ends the process, `once` the first time only."""
        note = self._folder / f"{study.case}-{os.getpid()}-{time.monotonic_ns()}"
        is_first = not list(self._folder.glob(f"{study.case}-*"))
        note.touch()
        if study.case == "always" or (study.case == "once" and is_first):
            os.kill(os.getpid(), signal.SIGKILL)
        if study.case.startswith("slow"):
            for step in range(600):
                time.sleep(0.1)
                options["advance"]("windows", step, 600)
        return self._segmenter.predict(study, sink, **options)


@dataclass(frozen=True)
class OddJob(RemoteJob):
    """Notes in `notes` which process began which study."""

    notes: Path = Path()

    def make(self):
        job = super().make()
        return replace(job, segmenter=OddSegmenter(job.segmenter, self.notes))
