"""Segment studies one after the other; each ends as done, rejected or failed, with a reason."""

import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.markup import escape

from pipeline.cohort.outputs import Outputs, make_output_folder
from pipeline.cohort.recipe import device_name, make_recipe
from pipeline.cohort.study_input import StudyInput, without_folder
from pipeline.cohort.table import CohortTable, Row, Status
from pipeline.errors import StudyError
from pipeline.model import Model
from pipeline.progress import make_progress, timed
from pipeline.report import (
    FileRecord,
    GridRecord,
    OutputKind,
    ProbabilityWriter,
    Provenance,
    Recipe,
    read_provenance,
    volumes_ml,
    write_mask,
    write_picture,
    write_provenance,
)
from pipeline.segmentation import Segmentation, segment_study
from pipeline.study import Study, read_study

logger = logging.getLogger(__name__)

ALREADY_COMPLETE = "already complete"

_LONGEST_REASON = 400


@dataclass(frozen=True)
class SegmentOptions:
    """What to write beside masks and provenance.

    Attributes:
        probabilities: Write the class probabilities.
        pictures: Write a picture of each mask.
    """

    probabilities: bool = False
    pictures: bool = False

    def wanted(self, outputs: Outputs) -> dict[OutputKind, Path]:
        """Return the files that a study must have, besides its provenance."""
        wanted: dict[OutputKind, Path] = {"mask": outputs.mask}
        if self.probabilities:
            wanted["probabilities"] = outputs.probabilities
        if self.pictures:
            wanted["picture"] = outputs.picture
        return wanted


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
        return all(row.status == "done" for row in self.rows)

    @property
    def counts(self) -> dict[Status, int]:
        """Number of studies of each status."""
        found = Counter(row.status for row in self.rows)
        return {status: found[status] for status in ("done", "rejected", "failed")}

    @property
    def num_skipped(self) -> int:
        """Number of studies that were complete before, counted as done."""
        return sum(row.reason == ALREADY_COMPLETE for row in self.rows)


@dataclass(frozen=True)
class _Job:
    """What all studies of a call share."""

    model: Model
    out: Path
    options: SegmentOptions
    device: torch.device


def segment_cohort(
    studies: Sequence[StudyInput],
    model: Model,
    out: Path,
    options: SegmentOptions,
    device: torch.device,
) -> CohortResult:
    """Segment `studies` into `out`, whatever happens to any one of them.

    `out/cohort.csv` is whole and current after every study. A study whose outputs are complete and
    match input, model and settings is skipped; what else lies under its name is replaced. After an
    interruption the same call continues.

    Args:
        studies: From `find_studies`; case names are unique.
        model: With its network on `device`.
        out: The output folder; created if needed.
        options: What to write.
        device: To compute on.

    Raises:
        ConfigError: If `out` cannot be written to.
        OSError: If `cohort.csv` cannot be written later on.
    """
    make_output_folder(out)
    job = _Job(model, out, options, device)
    table = CohortTable(out / "cohort.csv")
    rows = []
    with make_progress() as progress:
        task = progress.add_task("Segmenting", total=len(studies), note="")
        for number, study in enumerate(studies, start=1):
            progress.update(task, note=escape(f"{number} of {len(studies)}: {study.case}"))
            rows.append(_attempt(study, job))
            table.put(rows[-1])
            progress.advance(task)
        progress.update(task, note="")
    return CohortResult(tuple(rows))


def _attempt(study: StudyInput, job: _Job) -> Row:
    start = time.perf_counter()
    status: Status
    try:
        if study.refusal is None:
            return replace(_segment(study, job), total_s=time.perf_counter() - start)
        status, reason = "rejected", study.refusal
        Outputs(job.out, study.case).remove()
    except StudyError as error:
        status, reason = "rejected", str(error)
        # No mask may stay beside a rejection; but a share that went away takes none with it.
        if not isinstance(error.__cause__, OSError):
            Outputs(job.out, study.case).remove()
    except Exception as error:
        # Whatever it is, the other studies go on; the one line in the table must do for most users.
        logger.debug("%s failed", study.case, exc_info=True)
        status, reason = "failed", f"{type(error).__name__}: {error}"
    reason = _one_line(without_folder(study.anonymous(reason), job.out))
    logger.warning("%s %s: %s", study.case, status, reason)
    return Row(study.case, status, reason, total_s=time.perf_counter() - start)


def _segment(study_input: StudyInput, job: _Job) -> Row:
    """Segment one study, or find it complete already."""
    outputs = Outputs(job.out, study_input.case)
    recipe = make_recipe(study_input, job.model)
    previous = read_provenance(outputs.provenance)
    wanted = job.options.wanted(outputs)
    if previous is not None and previous.recipe == recipe and previous.is_intact(wanted):
        return _row(previous, ALREADY_COMPLETE)
    outputs.remove()
    seconds: dict[str, float] = {}
    with timed(seconds, "read"):
        study = read_study(
            study_input.paths,
            case=study_input.case,
            num_channels=len(job.model.description.channels),
            config=job.model.description.study,
        )
    segmentation = _segment_to(outputs, study, job)
    seconds |= segmentation.seconds
    with timed(seconds, "write"):
        if job.options.pictures:
            labels = job.model.description.labels
            write_picture(study.volume, segmentation.labels_IJK, labels, outputs.picture)
        write_mask(segmentation.labels_IJK, study.header, outputs.mask)
    warnings = tuple(study_input.anonymous(text) for text in segmentation.warnings)
    segmentation = replace(segmentation, seconds=seconds, warnings=warnings)
    provenance = _describe(study, segmentation, recipe, job)
    write_provenance(provenance, outputs.provenance)
    for warning in provenance.warnings:
        logger.warning("%s: %s", study.case, warning)
    return _row(provenance)


def _segment_to(outputs: Outputs, study: Study, job: _Job) -> Segmentation:
    """Segment a study, and write its probabilities on the way if they are wanted."""
    if not job.options.probabilities:
        return segment_study(study, job.model, job.device)
    num_outputs = job.model.description.num_outputs
    shape = study.volume.grid.shape
    with ProbabilityWriter(outputs.probabilities, study.header, shape, num_outputs) as writer:
        return segment_study(study, job.model, job.device, writer)


def _describe(study: Study, segmentation: Segmentation, recipe: Recipe, job: _Job) -> Provenance:
    grid, labels = study.volume.grid, job.model.description.labels
    wanted = job.options.wanted(Outputs(job.out, study.case))
    return Provenance(
        case=study.case,
        recipe=recipe,
        outputs={kind: FileRecord.of(path) for kind, path in wanted.items()},
        labels=dict(labels),
        volumes_ml=volumes_ml(segmentation.labels_IJK, grid, labels),
        grid=GridRecord.of(grid),
        warnings=segmentation.warnings,
        seconds=dict(segmentation.seconds),
        device=device_name(job.device),
    )


def _row(provenance: Provenance, reason: str = "") -> Row:
    return Row(
        case=provenance.case,
        status="done",
        reason=reason,
        seconds=provenance.seconds,
        volumes_ml=provenance.volumes_ml,
    )


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]}..."
