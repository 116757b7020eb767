"""What an earlier run left of a study, and whether it stays."""

import logging
import os

from pipeline.cohort.corrected import FoundMask, find_mask
from pipeline.cohort.dicom_outputs import config_of, write_corrected_dicom
from pipeline.cohort.job import Job
from pipeline.cohort.outputs import Outputs
from pipeline.cohort.recipe import is_current
from pipeline.cohort.study_input import StudyInput
from pipeline.dicom_out import Algorithm
from pipeline.errors import PipelineError
from pipeline.journal import Row
from pipeline.ownership import set_aside
from pipeline.report import (
    Provenance,
    Recipe,
    incomplete_labels,
    say_incomplete,
    volumes_ml,
)
from pipeline.volume import LabelMap

logger = logging.getLogger(__name__)

ALREADY_COMPLETE = "already complete"

CHOOSE_REPLACE = "Choose another folder with --out, or say --replace: the earlier masks move to "
"""What can be done where results of another model are; a folder follows."""

_CORRECTED = "the mask was changed since Trivox wrote it; it counts as it is"
_BROUGHT = "the mask is not Trivox's; it counts as it is"
_CHANGED_INPUT = "the input has changed since the mask was made: does it still fit?"


def keep_previous(
    study: StudyInput, previous: Provenance | None, recipe: Recipe, job: Job
) -> Row | None:
    """Return what became of a study whose mask stays as it is, or None if it is to be made.

    It stays if it is complete and current, or is somebody else's. Masks of another model, and
    those of others, are replaced only on request.

    Args:
        study: To be segmented.
        previous: What an earlier run wrote of it, if one did.
        recipe: What would be made now.
        job: By which model, into which folder.

    Raises:
        PipelineError: If the mask is somebody else's and cannot count, or another model's.
        StudyError: If the study must be looked at for that, and cannot be read.
    """
    outputs = Outputs.of(job.out, study)
    replaces = job.options.replace.covers(study.case)
    mask = _look(study, outputs, previous, job)
    if mask.corrected is not None and not replaces:
        return _row_of_corrected(study, mask.corrected, previous, recipe, job)
    if previous is None or not os.path.lexists(outputs.mask):
        return None
    wanted = job.options.wanted(study, job.out)
    del wanted["mask"]
    if mask.is_recorded and is_current(previous, recipe, wanted):
        return row_of(previous, 0.0, ALREADY_COMPLETE)
    if previous.recipe.model.sha256 != recipe.model.sha256:
        if not replaces:
            found = f"is a mask of another model ({previous.recipe.model.name})"
            raise PipelineError(outputs.mask.name, found, f"{CHOOSE_REPLACE}.trivox/replaced.")
    elif previous.recipe != recipe:
        what = "settings" if previous.recipe.inputs == recipe.inputs else "input"
        logger.info("%s: its %s changed, so its mask is made anew", study.case, what)
    return None


def row_of(provenance: Provenance, total_s: float, reason: str = "") -> Row:
    """Return the row of a study that is done.

    That the model is too old to know its training cases is said of each study in its provenance,
    but is nothing odd about any of them. Nor is that a label touches the end of the volume, as most
    do in most studies; it has a column of its own.
    """
    untold = {str(each) for each in provenance.admission if each.check == "fingerprint"}
    if provenance.incomplete:
        untold.add(say_incomplete(provenance.incomplete))
    return Row(
        case=provenance.case,
        status="done",
        reason=reason,
        seconds=provenance.timing.seconds,
        total_s=total_s,
        volumes_ml=provenance.volumes_ml,
        warnings=tuple(text for text in provenance.warnings if text not in untold),
        incomplete=provenance.incomplete,
    )


def _look(study: StudyInput, outputs: Outputs, previous: Provenance | None, job: Job) -> FoundMask:
    try:
        return find_mask(study, outputs, previous, job.model.description.labels)
    except PipelineError:
        if job.options.replace.covers(study.case):
            return FoundMask()
        raise


def _row_of_corrected(
    study: StudyInput,
    label_map: LabelMap,
    previous: Provenance | None,
    recipe: Recipe,
    job: Job,
) -> Row:
    reason = _BROUGHT if previous is None else _CORRECTED
    logger.info("%s corrected: %s", study.case, reason)
    outputs = Outputs.of(job.out, study)
    if outputs.wrote(outputs.picture, previous):
        # It shows another mask than the one that counts.
        set_aside(outputs.picture, outputs.folder)
    config = job.options.dicom
    if config is None and outputs.wrote(outputs.dicom_segmentation, previous):
        # Nobody asked for it now, but none may tell of another mask than the one that counts.
        config = config_of(outputs.dicom_segmentation)
    if config is not None:
        algorithm = job.algorithm or Algorithm.of(job.model)
        is_drawn = previous is None
        write_corrected_dicom(study, label_map, outputs, algorithm, config, is_drawn=is_drawn)
    has_changed = previous is not None and previous.recipe.inputs != recipe.inputs
    return Row(
        case=study.case,
        status="corrected",
        reason=reason,
        volumes_ml=volumes_ml(label_map.labels_IJK, label_map.grid, job.model.description.labels),
        warnings=(_CHANGED_INPUT,) if has_changed else (),
        incomplete=incomplete_labels(label_map.labels_IJK, job.model.description.labels),
    )
