"""Results leave: the mask on the study's own grid, its provenance, its volumes and a picture.

Every file appears only when it is complete. None repeats free text of the input's header, where a
patient's name may stand, nor the folders that the input came from.
"""

from pipeline.output.nifti import ProbabilityWriter, hash_labels, write_mask
from pipeline.output.picture import write_picture
from pipeline.output.provenance import (
    CleanUpRecord,
    FileRecord,
    GridRecord,
    OutputKind,
    Provenance,
    Recipe,
    Timing,
    environment,
    hash_settings,
    incomplete_labels,
    load_provenance,
    read_provenance,
    say_incomplete,
    software_versions,
    volumes_ml,
    write_provenance,
)

__all__ = [
    "CleanUpRecord",
    "FileRecord",
    "GridRecord",
    "OutputKind",
    "ProbabilityWriter",
    "Provenance",
    "Recipe",
    "Timing",
    "environment",
    "hash_labels",
    "hash_settings",
    "incomplete_labels",
    "load_provenance",
    "read_provenance",
    "say_incomplete",
    "software_versions",
    "volumes_ml",
    "write_mask",
    "write_picture",
    "write_provenance",
]
