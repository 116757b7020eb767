"""What happens to one study of a cohort: it is loaded, segmented and written.

Each stage returns its result, or a row that says why there is none; whatever goes wrong with one
study, the others go on.
"""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial

from pipeline.cohort.attempt import attempt
from pipeline.cohort.bids_derivative import write_sidecars
from pipeline.cohort.gate import look_at_volumes, pass_gate
from pipeline.cohort.previous import keep_previous, row_of, stamp_input
from pipeline.cohort.recipe import describe_clean_up, device_name, make_recipe
from pipeline.cohort.request import Job
from pipeline.journal import Row
from pipeline.output import (
    FileRecord,
    GridRecord,
    ProbabilityWriter,
    Provenance,
    Recipe,
    Timing,
    environment,
    hash_labels,
    hash_settings,
    incomplete_labels,
    read_provenance,
    say_incomplete,
    volumes_ml,
    write_mask,
    write_picture,
    write_provenance,
)
from pipeline.output.dicom.write import check_dicom, write_dicom
from pipeline.output.places import Outputs
from pipeline.segmentation import STAGES, Advance, Prediction, PreparedStudy, Segmentation
from pipeline.study import (
    GeometryHeader,
    Stamp,
    changed,
    current_source,
    extent_of,
    read_study,
    read_unchanged,
)
from pipeline.study.findings import Finding
from pipeline.study.input import StudyInput
from pipeline.system.memory import give_back_freed
from pipeline.system.progress import timed
from pipeline.transforms import ras_view
from pipeline.volume import Grid, LabelMap, Volume

logger = logging.getLogger(__name__)

CLEANING_BYTES_PER_VOXEL = 12
"""Of a study that is cleaned: a mask, numbers of components, and what counts them (reckoned)."""

LARGE_BYTES = 2**28
"""Of a study whose voxels, once they are done with, are returned to the system at once."""


@dataclass(frozen=True)
class Loaded:
    """A study that waits to be segmented."""

    input: StudyInput
    recipe: Recipe
    prepared: PreparedStudy
    admission: tuple[Finding, ...]
    stamp: Stamp | None = None


@dataclass(frozen=True)
class Predicted:
    """A study that waits to be cleaned; what the network saw of it is forgotten.

    Attributes:
        loaded: The study, without that.
        prediction: Of its labels.
        writing: Writes its probabilities when it is closed, if they are wanted.
    """

    loaded: Loaded
    prediction: Prediction
    writing: ExitStack

    @property
    def held_bytes(self) -> int:
        """Memory that the study takes until it is written."""
        volume = self.loaded.prepared.volume
        labels_IJK = self.prediction.labels_IJK
        held = labels_IJK.nbytes + CLEANING_BYTES_PER_VOXEL * labels_IJK.size
        return held + (0 if volume is None else volume.data_CIJK.nbytes)


@dataclass(frozen=True)
class Segmented:
    """A study that waits to be written; what the network saw of it is forgotten."""

    input: StudyInput
    recipe: Recipe
    grid: Grid
    header: GeometryHeader
    volume: Volume | None
    segmentation: Segmentation
    volumes_ml: Mapping[str, float]
    incomplete: tuple[str, ...] = ()
    stamp: Stamp | None = None

    @property
    def held_bytes(self) -> int:
        """Memory that the study takes until it is written."""
        volume_bytes = 0 if self.volume is None else self.volume.data_CIJK.nbytes
        return self.segmentation.labels_IJK.nbytes + volume_bytes


def load(study: StudyInput, job: Job) -> Loaded | Row:
    """Read a study and bring it to the network's grid, unless it is complete already."""
    return attempt(study, job.out, lambda: _load(study, job), {})


def segment(
    loaded: Loaded,
    job: Job,
    elsewhere_bytes: int,
    advance: Advance,
) -> Segmented | Row:
    """Segment a loaded study; write its probabilities on the way if they are wanted."""

    def segment_now() -> Segmented:
        predicted = _predict(loaded, job, elsewhere_bytes, advance)
        return _conclude(predicted, job, elsewhere_bytes, advance)

    return attempt(loaded.input, job.out, segment_now, loaded.prepared.seconds)


def predict(loaded: Loaded, job: Job, elsewhere_bytes: int, advance: Advance) -> Predicted | Row:
    """Do the part of `segment` that the networks' device does."""
    taken = loaded.prepared.seconds
    return attempt(
        loaded.input, job.out, lambda: _predict(loaded, job, elsewhere_bytes, advance), taken
    )


def conclude(predicted: Predicted, job: Job) -> Segmented | Row:
    """Do the rest of `segment`, while that device predicts the next study."""
    taken = predicted.prediction.seconds

    def tell_nobody(_what: str, _done: int, _total: int) -> None:
        job.alive()

    return attempt(
        predicted.loaded.input, job.out, lambda: _conclude(predicted, job, 0, tell_nobody), taken
    )


def write(segmented: Segmented, job: Job) -> Row:
    """Write mask, picture and, last, the provenance."""
    taken = segmented.segmentation.seconds
    return attempt(segmented.input, job.out, lambda: _write(segmented, job), taken)


def _load(study: StudyInput, job: Job) -> Loaded | Row:
    """Hash and read a study, all from the same bytes."""

    def read() -> Loaded | Row:
        sources = tuple(map(current_source, study.sources))
        return _load_once(replace(study, sources=sources), job)

    return read_unchanged(study.case, partial(stamp_input, study), read)


def _load_once(study: StudyInput, job: Job) -> Loaded | Row:
    stamp = stamp_input(study)
    start = time.perf_counter()
    outputs = Outputs.of(job.out, study)
    outputs.check_names(job.options.wanted(study, job.out).values())
    recipe = make_recipe(study, job.model, job.options.dicom)
    job.alive()
    previous = outputs.read_previous()
    row = keep_previous(study, previous, recipe, job)
    if row is not None:
        return replace(row, total_s=time.perf_counter() - start)
    with _without_stale(outputs, recipe):
        return replace(_read(study, recipe, job), stamp=stamp)


@contextmanager
def _without_stale(outputs: Outputs, recipe: Recipe) -> Iterator[None]:
    """If a block fails, set an earlier result aside that is none of a recipe's, and note where."""
    try:
        yield
    except Exception as error:
        previous = read_provenance(outputs.provenance)
        if previous is not None and previous.recipe != recipe:
            # A mask of another input or model must not stay for one of these.
            error.add_note(outputs.set_aside())
        raise


def _read(study: StudyInput, recipe: Recipe, job: Job) -> Loaded:
    job.segmenter.check_readable(study.case, extent_of(study.sources)[0])
    seconds: dict[str, float] = {}
    with timed(seconds, "load"):
        if job.options.dicom is not None:
            check_dicom(study)
        voxels = read_study(
            study.sources,
            case=study.case,
            num_channels=len(job.model.description.channels),
            config=job.model.description.study,
        )
    job.alive()
    with timed(seconds, "admission"):
        voxels, findings = pass_gate(voxels, job.model.description)
    job.alive()
    prepared = job.segmenter.prepare(voxels, keep_volume=job.options.pictures)
    if voxels.volume.data_CIJK.nbytes > LARGE_BYTES:
        del voxels
        give_back_freed()
    prepared = replace(prepared, seconds=seconds | dict(prepared.seconds))
    return Loaded(study, recipe, prepared, findings)


def _predict(loaded: Loaded, job: Job, elsewhere_bytes: int, advance: Advance) -> Predicted:
    study, sink = loaded.prepared, None
    outputs = Outputs.of(job.out, loaded.input)
    with _without_stale(outputs, loaded.recipe), ExitStack() as stack:
        if job.options.probabilities:
            where = (outputs.probabilities, study.header, study.grid.shape)
            num_outputs = job.model.description.num_outputs
            sink = stack.enter_context(ProbabilityWriter(*where, num_outputs))
        prediction = job.segmenter.predict(
            study, sink, elsewhere_bytes=elsewhere_bytes, advance=advance
        )
        loaded = replace(loaded, prepared=study.without_data())
        return Predicted(loaded, prediction, stack.pop_all())


def _conclude(predicted: Predicted, job: Job, elsewhere_bytes: int, advance: Advance) -> Segmented:
    loaded, study = predicted.loaded, predicted.loaded.prepared
    description = job.model.description
    outputs = Outputs.of(job.out, loaded.input)
    with _without_stale(outputs, loaded.recipe), predicted.writing as stack:
        segmentation = job.segmenter.clean(
            study, predicted.prediction, elsewhere_bytes=elsewhere_bytes, advance=advance
        )
        volumes = volumes_ml(segmentation.labels_IJK, study.grid, description.labels)
        incomplete = _incomplete(segmentation, study, description.labels)
        told = (say_incomplete(incomplete),) * bool(incomplete)
        odd = look_at_volumes(loaded.input.case, volumes, description)
        seconds = dict(segmentation.seconds)
        job.alive()
        outputs.remove(loaded.recipe.model.sha256)
        with timed(seconds, "write"):
            stack.close()
        job.alive()
    segmentation = replace(
        segmentation,
        seconds=seconds,
        warnings=(*segmentation.warnings, *map(str, odd), *told),
        admission=(*loaded.admission, *odd),
    )
    volume = study.volume if job.options.pictures else None
    return Segmented(
        input=loaded.input,
        recipe=loaded.recipe,
        grid=study.grid,
        header=study.header,
        volume=volume,
        segmentation=segmentation,
        volumes_ml=volumes,
        incomplete=incomplete,
        stamp=loaded.stamp,
    )


def _incomplete(
    segmentation: Segmentation, study: PreparedStudy, labels: Mapping[str, int]
) -> tuple[str, ...]:
    """Return the labels that touch an end of the volume, or of the part that the network saw."""
    seen = ras_view(segmentation.labels_IJK, study.grid.affine)[study.working.placement.crop]
    found = {
        *incomplete_labels(segmentation.labels_IJK, labels),
        *incomplete_labels(seen, labels),
    }
    return tuple(name for name in labels if name in found)


def _write(segmented: Segmented, job: Job) -> Row:
    study, segmentation = segmented.input, segmented.segmentation
    outputs = Outputs.of(job.out, study)
    seconds = dict(segmentation.seconds)
    with timed(seconds, "write"):
        if segmented.volume is not None:
            labels = job.model.description.labels
            write_picture(segmented.volume, segmentation.labels_IJK, labels, outputs.picture)
            job.alive()
        write_mask(segmentation.labels_IJK, segmented.header, outputs.mask)
        job.alive()
        if job.algorithm is not None and job.options.dicom is not None:
            label_map = LabelMap(segmentation.labels_IJK, segmented.grid.affine)
            incomplete = segmented.incomplete
            write_dicom(study, label_map, outputs, job.algorithm, job.options.dicom, incomplete)
            # They repeat what the headers of the images say, which are read again for that.
            if stamp_input(study) != segmented.stamp:
                raise changed(study.case)
            job.alive()
    warnings = tuple(study.anonymous(text) for text in segmentation.warnings)
    segmentation = replace(segmentation, seconds=seconds, warnings=warnings)
    provenance = _describe(segmented, segmentation, job)
    sidecar = write_sidecars(outputs, job.model.description.output_names)
    write_provenance(provenance, outputs.provenance, sidecar)
    logger.info("%s: %s", study.case, provenance.timing.in_words())
    for warning in provenance.warnings:
        logger.warning("%s: %s", study.case, warning)
    return row_of(provenance, sum(seconds.values()))


def _describe(segmented: Segmented, segmentation: Segmentation, job: Job) -> Provenance:
    labels, grid = job.model.description.labels, segmented.grid
    clean_up = job.model.description.postprocessing
    wanted = job.options.wanted(segmented.input, job.out)
    in_order = {stage: segmentation.seconds.get(stage, 0.0) for stage in STAGES}
    return Provenance(
        case=segmented.input.case,
        recipe=segmented.recipe,
        configuration_sha256=hash_settings(segmented.recipe.settings),
        outputs={kind: FileRecord.of(path) for kind, path in wanted.items()},
        mask_voxels_sha256=hash_labels(segmentation.labels_IJK),
        labels=dict(labels),
        regions=job.model.description.regions,
        scoring=job.model.description.scoring,
        volumes_ml=dict(segmented.volumes_ml),
        incomplete=segmented.incomplete,
        grid=GridRecord.of(grid),
        warnings=segmentation.warnings,
        admission=segmentation.admission,
        timing=Timing.of(in_order, grid.num_voxels),
        memory_gb=dict(segmentation.memory_gb),
        postprocessing=describe_clean_up(clean_up, segmentation.warnings),
        environment=environment(),
        device=device_name(job.segmenter.device),
        arithmetic=segmentation.arithmetic,
    )
