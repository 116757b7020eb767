"""From a data set's description to its cases, its folds and a verdict on its files.

`load_manifest` reads a data set's description in any of four forms (Trivox YAML, Decathlon
`dataset.json`, nnU-Net v2 raw folder, CSV) into one `Manifest`; `split_cases` divides it into
training and validation cases without sharing a patient between them; `check_manifest` reads every
file once and reports what would spoil a training. Loading looks at descriptions only: an image
that is not there is a finding of the check, not an error of loading.
"""

from pipeline.manifest.case import (
    ANATOMICAL_STRUCTURE,
    Case,
    Channel,
    Code,
    Manifest,
    Region,
    SegmentCode,
)
from pipeline.manifest.check import check_manifest
from pipeline.manifest.examine import (
    ALL_CASES,
    Finding,
    check_channels,
    format_findings,
    summarise_findings,
)
from pipeline.manifest.load import is_manifest, load_manifest
from pipeline.manifest.reading import (
    ChannelSchemes,
    DataPlace,
    ReadingConfig,
    study_settings,
    with_settings,
)
from pipeline.manifest.scheme import NORMALISE_OTHERWISE, Modality, Scheme, fault_of
from pipeline.manifest.split import Split, Volumes, split_cases

__all__ = [
    "ALL_CASES",
    "ANATOMICAL_STRUCTURE",
    "NORMALISE_OTHERWISE",
    "Case",
    "Channel",
    "ChannelSchemes",
    "Code",
    "DataPlace",
    "Finding",
    "Manifest",
    "Modality",
    "ReadingConfig",
    "Region",
    "Scheme",
    "SegmentCode",
    "Split",
    "Volumes",
    "check_channels",
    "check_manifest",
    "fault_of",
    "format_findings",
    "is_manifest",
    "load_manifest",
    "split_cases",
    "study_settings",
    "summarise_findings",
    "with_settings",
]
