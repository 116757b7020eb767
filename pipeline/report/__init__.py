"""Results leave: the mask on the study's own grid, its provenance, its volumes and a picture.

Every file appears only when it is complete. None repeats free text of the input's header, where a
patient's name may stand, nor the folders that the input came from.
"""

from pipeline.report.mask import hash_labels, write_mask
from pipeline.report.picture import write_picture
from pipeline.report.probabilities import ProbabilityWriter
from pipeline.report.provenance import (
    CleanUpRecord,
    FileRecord,
    GridRecord,
    OutputKind,
    Provenance,
    Recipe,
    Timing,
    environment,
    hash_settings,
    load_provenance,
    read_provenance,
    software_versions,
    write_provenance,
)
from pipeline.report.volumetry import incomplete_labels, say_incomplete, volumes_ml

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
