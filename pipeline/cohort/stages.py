"""What happens to one study of a cohort: it is loaded, segmented and written.

Each stage returns its result, or a row that says why there is none; whatever goes wrong with one
study, the others go on.
"""

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from pipeline.cohort.gate import pass_gate
from pipeline.cohort.options import SegmentOptions
from pipeline.cohort.outputs import Outputs
from pipeline.cohort.recipe import device_name, is_current, make_recipe
from pipeline.cohort.study_input import StudyInput, without_folder
from pipeline.cohort.table import Row, Status
from pipeline.errors import StudyError
from pipeline.findings import Finding
from pipeline.main_memory import give_back_freed
from pipeline.model import Model
from pipeline.progress import timed
from pipeline.report import (
    FileRecord,
    GridRecord,
    ProbabilityWriter,
    Provenance,
    Recipe,
    Timing,
    read_provenance,
    volumes_ml,
    write_mask,
    write_picture,
    write_provenance,
)
from pipeline.segmentation import STAGES, Advance, PreparedStudy, Segmentation, Segmenter
from pipeline.study import GeometryHeader, extent_of, read_study
from pipeline.volume import Grid, Volume

logger = logging.getLogger(__name__)

ALREADY_COMPLETE = "already complete"

LARGE_BYTES = 2**28
"""Of a study whose voxels, once they are done with, are returned to the system at once."""

_LONGEST_REASON = 400

Result = TypeVar("Result")


@dataclass(frozen=True)
class Job:
    """What all studies of a call share."""

    model: Model
    segmenter: Segmenter
    out: Path
    options: SegmentOptions


@dataclass(frozen=True)
class Loaded:
    """A study that waits to be segmented."""

    input: StudyInput
    recipe: Recipe
    prepared: PreparedStudy
    admission: tuple[Finding, ...]


@dataclass(frozen=True)
class Segmented:
    """A study that waits to be written; what the network saw of it is forgotten."""

    input: StudyInput
    recipe: Recipe
    grid: Grid
    header: GeometryHeader
    volume: Volume | None
    segmentation: Segmentation

    @property
    def held_bytes(self) -> int:
        """Memory that the study takes until it is written."""
        volume_bytes = 0 if self.volume is None else self.volume.data_CIJK.nbytes
        return self.segmentation.labels_IJK.nbytes + volume_bytes


def load(study: StudyInput, job: Job) -> Loaded | Row:
    """Read a study and bring it to the network's grid, unless it is complete already."""
    return _attempt(study, job, lambda: _load(study, job), {})


def segment(
    loaded: Loaded,
    job: Job,
    elsewhere_bytes: int,
    advance: Advance,
) -> Segmented | Row:
    """Segment a loaded study; write its probabilities on the way if they are wanted."""
    taken = loaded.prepared.seconds
    return _attempt(
        loaded.input, job, lambda: _segment(loaded, job, elsewhere_bytes, advance), taken
    )


def write(segmented: Segmented, job: Job) -> Row:
    """Write mask, picture and, last, the provenance."""
    taken = segmented.segmentation.seconds
    return _attempt(segmented.input, job, lambda: _write(segmented, job), taken)


def _attempt(
    study: StudyInput, job: Job, stage: Callable[[], Result], taken: Mapping[str, float]
) -> Result | Row:
    """Do a stage, after others that have `taken` some time."""
    start = time.perf_counter()
    status: Status
    try:
        if study.refusal is None:
            return stage()
        status, reason = _reject(study, job, study.refusal)
    except StudyError as error:
        status, reason = "rejected", str(error)
        # No mask may stay beside a rejection; but a share that went away takes none with it.
        if not isinstance(error.__cause__, OSError):
            status, reason = _reject(study, job, reason)
    except Exception as error:
        # Whatever it is, the other studies go on; the one line in the table must do for most users.
        logger.debug("%s failed", study.case, exc_info=True)
        status, reason = "failed", f"{type(error).__name__}: {error}"
    reason = _one_line(without_folder(study.anonymous(reason), job.out))
    logger.warning("%s %s: %s", study.case, status, reason)
    return Row(
        study.case, status, reason, total_s=time.perf_counter() - start + sum(taken.values())
    )


def _reject(study: StudyInput, job: Job, reason: str) -> tuple[Status, str]:
    """Remove what an earlier run left of a study; if that fails, say that it is still there."""
    try:
        Outputs(job.out, study.case).remove()
    except OSError as error:
        return "failed", f"{reason} An earlier result cannot be removed: {error.strerror}."
    return "rejected", reason


def _load(study: StudyInput, job: Job) -> Loaded | Row:
    start = time.perf_counter()
    outputs = Outputs(job.out, study.case)
    recipe = make_recipe(study, job.model)
    previous = read_provenance(outputs.provenance)
    wanted = job.options.wanted(outputs)
    if previous is not None and is_current(previous, recipe, wanted):
        return _row(previous, time.perf_counter() - start, ALREADY_COMPLETE)
    job.segmenter.check_readable(study.case, extent_of(study.paths)[0])
    seconds: dict[str, float] = {}
    with timed(seconds, "load"):
        voxels = read_study(
            study.paths,
            case=study.case,
            num_channels=len(job.model.description.channels),
            config=job.model.description.study,
        )
    with timed(seconds, "admission"):
        voxels, findings = pass_gate(voxels, job.model.description)
    prepared = job.segmenter.prepare(voxels, keep_volume=job.options.pictures)
    if voxels.volume.data_CIJK.nbytes > LARGE_BYTES:
        del voxels
        give_back_freed()
    prepared = replace(prepared, seconds=seconds | dict(prepared.seconds))
    return Loaded(study, recipe, prepared, findings)


def _segment(loaded: Loaded, job: Job, elsewhere_bytes: int, advance: Advance) -> Segmented:
    study, sink, outputs = loaded.prepared, None, Outputs(job.out, loaded.prepared.case)
    outputs.remove()
    with ExitStack() as stack:
        if job.options.probabilities:
            num_outputs = job.model.description.num_outputs
            where = (outputs.probabilities, study.header, study.grid.shape)
            sink = stack.enter_context(ProbabilityWriter(*where, num_outputs))
        segmentation = job.segmenter.segment(
            study, sink, elsewhere_bytes=elsewhere_bytes, advance=advance
        )
        seconds = dict(segmentation.seconds)
        with timed(seconds, "write"):
            stack.close()
    segmentation = replace(segmentation, seconds=seconds, admission=loaded.admission)
    volume = study.volume if job.options.pictures else None
    return Segmented(loaded.input, loaded.recipe, study.grid, study.header, volume, segmentation)


def _write(segmented: Segmented, job: Job) -> Row:
    study, segmentation = segmented.input, segmented.segmentation
    outputs = Outputs(job.out, study.case)
    seconds = dict(segmentation.seconds)
    with timed(seconds, "write"):
        if segmented.volume is not None:
            labels = job.model.description.labels
            write_picture(segmented.volume, segmentation.labels_IJK, labels, outputs.picture)
        write_mask(segmentation.labels_IJK, segmented.header, outputs.mask)
    warnings = tuple(study.anonymous(text) for text in segmentation.warnings)
    segmentation = replace(segmentation, seconds=seconds, warnings=warnings)
    provenance = _describe(segmented, segmentation, job)
    write_provenance(provenance, outputs.provenance)
    logger.info("%s: %s", study.case, provenance.timing.in_words())
    for warning in provenance.warnings:
        logger.warning("%s: %s", study.case, warning)
    return _row(provenance, sum(seconds.values()))


def _describe(segmented: Segmented, segmentation: Segmentation, job: Job) -> Provenance:
    case, labels, grid = segmented.input.case, job.model.description.labels, segmented.grid
    wanted = job.options.wanted(Outputs(job.out, case))
    in_order = {stage: segmentation.seconds.get(stage, 0.0) for stage in STAGES}
    return Provenance(
        case=case,
        recipe=segmented.recipe,
        outputs={kind: FileRecord.of(path) for kind, path in wanted.items()},
        labels=dict(labels),
        volumes_ml=volumes_ml(segmentation.labels_IJK, grid, labels),
        grid=GridRecord.of(grid),
        warnings=segmentation.warnings,
        admission=segmentation.admission,
        timing=Timing.of(in_order, grid.num_voxels),
        memory_gb=dict(segmentation.memory_gb),
        device=device_name(job.segmenter.device),
        arithmetic=segmentation.arithmetic,
    )


def _row(provenance: Provenance, total_s: float, reason: str = "") -> Row:
    return Row(
        case=provenance.case,
        status="done",
        reason=reason,
        seconds=provenance.timing.seconds,
        total_s=total_s,
        volumes_ml=provenance.volumes_ml,
    )


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]}..."
