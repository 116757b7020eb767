"""Tell without reading them whether a study's files are those that its last result belongs to.

Hashing 3,000 CT studies to find that nothing changed would take hours. A file counts as unchanged
while its size, its number on the file system and the times of its last changes are; to alter it
and keep all of these takes intent. Where they differ the contents decide: see
`pipeline.cohort.recipe`.
"""

import hashlib
import json

from pipeline.cohort.study_input import StudyInput
from pipeline.errors import StudyError
from pipeline.journal import Row
from pipeline.study import Stamp, source_files, stamp


def stamp_input(study: StudyInput) -> Stamp | None:
    """Return the stamp of a study's files, or None if one of them is not there.

    Whatever else is wrong with them is for reading them to say.
    """
    if study.refusal is not None:
        return stamp(study.files())
    try:
        return stamp([file for source in study.sources for file in source_files(source)])
    except (StudyError, OSError, ValueError):
        return None


def sign(method: str, row: Row, inputs: Stamp | None, outputs: Stamp | None) -> str:
    """Return what a result is known by, or nothing if one of its files is not there.

    Args:
        method: Of `Request.method`.
        row: What became of the study: a journal in which a number was damaged is not believed.
        inputs: Stamp of the study's files, from before they were read.
        outputs: Stamp of what was written.
    """
    if inputs is None or outputs is None:
        return ""
    content = [method, {**vars(row), "total_s": float(row.total_s)}, inputs, outputs]
    return hashlib.sha256(json.dumps(content, default=dict).encode()).hexdigest()
