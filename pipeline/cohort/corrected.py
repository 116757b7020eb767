"""Masks that a person corrected, or made, where Trivox would write its own: they count."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from pipeline.errors import PipelineError, StudyError
from pipeline.output import FileRecord, Provenance, hash_labels
from pipeline.output.places import Outputs
from pipeline.study import open_volume, place_labels, read_label_map
from pipeline.study.input import StudyInput
from pipeline.system.ownership import is_ours
from pipeline.volume import LabelMap


@dataclass(frozen=True)
class FoundMask:
    """The mask that lies where a study's is to be written.

    Attributes:
        is_recorded: Whether its voxels are those that the provenance beside it tells of.
        corrected: Somebody else's, on the study's voxels; None if it is ours, or there is none.
    """

    is_recorded: bool = False
    corrected: LabelMap | None = None


def find_mask(
    study: StudyInput,
    outputs: Outputs,
    previous: Provenance | None,
    labels: Mapping[str, int],
) -> FoundMask:
    """Tell whose mask lies at the place of a study's.

    The same voxels under another header, type or compression are still ours. The voxels are read
    only if the file is none that we wrote.

    Args:
        study: Whose voxels it must lie on.
        outputs: Where it lies.
        previous: Its provenance, if there is one.
        labels: Name and value of those that it may have.

    Raises:
        PipelineError: If it is not ours and cannot count: it is damaged, lies on other voxels, or
            has unknown labels.
        StudyError: If the study's own header cannot be read.
    """
    path = outputs.mask
    if not os.path.lexists(path):
        return FoundMask()
    record = None if previous is None else previous.outputs.get("mask")
    if record is not None and path.is_file() and FileRecord.of(path).sha256 == record.sha256:
        return FoundMask(is_recorded=True)
    if is_ours(path):
        return FoundMask()
    label_map = _read(study, outputs)
    if previous is not None and hash_labels(label_map.labels_IJK) == previous.mask_voxels_sha256:
        return FoundMask(is_recorded=True)
    unknown = set(np.unique(label_map.labels_IJK).tolist()) - {0, *labels.values()}
    if unknown:
        values = ", ".join(map(str, sorted(unknown)[:5]))
        known = ", ".join(f"{value} ({name})" for name, value in labels.items())
        found = f"has labels that the model does not know: {values}; it has {known}"
        raise _unusable(outputs, found)
    return FoundMask(corrected=label_map)


def _read(study: StudyInput, outputs: Outputs) -> LabelMap:
    """Read the mask and put its voxels in the study's order."""
    path = outputs.mask
    # The file's own name can be a patient's.
    place = replace(open_volume(study.sources[0]).place, name=study.shown_name(0))
    if not path.is_file():
        raise _unusable(outputs, "is no file")
    try:
        return place_labels(read_label_map(path), path.name, place)
    except StudyError as error:
        raise _unusable(outputs, error.found) from error


def _unusable(outputs: Outputs, found: str) -> PipelineError:
    found = f"is not the mask that Trivox wrote, and {found}"
    remedy = (
        "It is kept. Mend it, or move it elsewhere, and run again; or let --replace "
        f"{outputs.case} move it to .trivox/replaced and make a new one."
    )
    return PipelineError(outputs.mask.name, found, remedy)
