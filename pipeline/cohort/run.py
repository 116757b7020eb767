"""Segment a cohort: every study ends with a mask or a reason, whatever ends the process.

The journal of the output folder says where each study stands. The same call again does only what is
missing or has changed: the input, the model, the settings, or an output that is no longer there.
"""

import os
import platform
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch

from pipeline.cohort.bids_derivative import prepare_derivative
from pipeline.cohort.events import Workers
from pipeline.cohort.own_process import Here
from pipeline.cohort.previous import ALREADY_COMPLETE, refuse_other_model
from pipeline.cohort.request import Job, Request, SegmentOptions
from pipeline.cohort.supervisor import Supervisor
from pipeline.journal import Journal, Row, Status, only_run
from pipeline.model import Model
from pipeline.output.places import make_output_folder
from pipeline.study.input import StudyInput
from pipeline.system.files import sweep
from pipeline.system.progress import make_progress


@dataclass(frozen=True)
class CohortResult:
    """What became of the studies of one call.

    Attributes:
        rows: One row a study, in the order of the studies.
    """

    rows: tuple[Row, ...]

    @property
    def all_done(self) -> bool:
        """Whether every study has its mask."""
        return all(row.has_mask for row in self.rows)

    @property
    def counts(self) -> dict[Status, int]:
        """Number of studies of each status."""
        found = Counter(row.status for row in self.rows)
        return {status: found[status] for status in get_args(Status)}

    @property
    def num_warned(self) -> int:
        """Number of studies that were done with warnings."""
        return sum(row.status == "done" and bool(row.warnings) for row in self.rows)

    @property
    def num_skipped(self) -> int:
        """Number of studies that were complete before, counted as done."""
        return sum(row.reason == ALREADY_COMPLETE for row in self.rows)


def segment_cohort(
    studies: Sequence[StudyInput],
    model: Model,
    out: Path,
    options: SegmentOptions,
    device: torch.device,
) -> CohortResult:
    """Segment `studies` into `out` in this process, whatever happens to any one of them.

    What ends the process itself ends the run; the next call goes on. See `run_cohort`.

    Args:
        studies: From `find_studies`; case names are unique.
        model: Its networks are copied to `device`.
        out: The output folder; created if needed.
        options: What to write, and what that may take.
        device: To compute on.

    Raises:
        ConfigError: If `out` cannot be written to, or another run writes to it.
        PipelineError: If the disk is full; what is done stays.
    """
    request = Request(model.description, model.sha256, out, options)

    def here() -> Workers:
        return Here(Job.of(model, device, out, options))

    return run_cohort(studies, request, here)


def run_cohort(
    studies: Sequence[StudyInput], request: Request, start_workers: Callable[[], Workers]
) -> CohortResult:
    """Segment `studies` with workers, which are started only if there is something to do.

    A study whose worker ended before it did is tried once more, alone; if that ends the worker too,
    it has failed. So is one, first of all, that was being worked on when an earlier run was killed.
    `cohort.csv` and `volumetry.csv` are written from the journal while the run goes on and when it
    ends, also by Ctrl-C.

    Args:
        studies: From `find_studies`; case names are unique.
        request: What to do with each.
        start_workers: Starts those who do it.

    Raises:
        ConfigError: If the output folder cannot be written to, another run writes to it, or it
            holds results of another model that are not to be replaced.
        PipelineError: If the disk is full, the output folder is no longer the one that the run
            began in, or the workers cannot be started.
    """
    make_output_folder(request.out)
    with only_run(request.out) as held:
        sweep(request.out)
        journal = Journal(request.out)
        try:
            refuse_other_model(studies, request, journal)
            prepare_derivative(request.out, studies, request.description.name, request.labels)
            run = journal.begin_run(platform.node(), os.getpid(), request.as_record())
            with make_progress() as progress:
                supervisor = Supervisor(studies, request, journal, run, progress, held)
                return CohortResult(supervisor.run(start_workers))
        finally:
            journal.close()
