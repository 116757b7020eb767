"""To the network's grid and scale, and back: RAS, crop, spacing, intensity, patches, augmentation.

`preprocess` and `Restorer` are inverse to each other and share one `Placement`, so that the way
back cannot drift from the way in.
"""

from pipeline.transforms.appearance import (
    AIR_HU,
    PADDING_GAP,
    PADDING_SHARE,
    ChannelLook,
    Look,
    look_at,
)
from pipeline.transforms.augmentation import Augmentation
from pipeline.transforms.cache import CachedCase, cache_key, is_whole, write_case
from pipeline.transforms.cohort_look import ChannelSpread, CohortLook, describe_looks
from pipeline.transforms.config import (
    AugmentationConfig,
    ChannelNormalisation,
    Preprocessing,
    PreprocessingConfig,
)
from pipeline.transforms.continuity import Continuity, SliceFault
from pipeline.transforms.fingerprint import (
    Fingerprint,
    LabelStatistics,
    settle_preprocessing,
    take_fingerprint,
)
from pipeline.transforms.foreground import Shadows
from pipeline.transforms.kept import LabelWatch, crop_box, name_thin
from pipeline.transforms.orientation import ras_view
from pipeline.transforms.patches import Batch, PatchDataset, Regions
from pipeline.transforms.placement import Placement
from pipeline.transforms.preprocess import (
    MAX_WORKING_VOXELS,
    Working,
    preprocess,
    preprocess_labels,
)
from pipeline.transforms.probability import ProbabilityBlock, ProbabilitySink
from pipeline.transforms.resample import SLAB_VOXELS
from pipeline.transforms.resident import ResidentPatches, resident_bytes_of
from pipeline.transforms.restore import Restorer
from pipeline.transforms.spread import Spread
from pipeline.transforms.template import RIGHT, Template
from pipeline.transforms.transfer import Landing, upload
from pipeline.transforms.uncertainty import CERTAIN, Uncertain

__all__ = [
    "AIR_HU",
    "CERTAIN",
    "MAX_WORKING_VOXELS",
    "PADDING_GAP",
    "PADDING_SHARE",
    "RIGHT",
    "SLAB_VOXELS",
    "Augmentation",
    "AugmentationConfig",
    "Batch",
    "CachedCase",
    "ChannelLook",
    "ChannelNormalisation",
    "ChannelSpread",
    "CohortLook",
    "Continuity",
    "Fingerprint",
    "LabelStatistics",
    "LabelWatch",
    "Landing",
    "Look",
    "PatchDataset",
    "Placement",
    "Preprocessing",
    "PreprocessingConfig",
    "ProbabilityBlock",
    "ProbabilitySink",
    "Regions",
    "ResidentPatches",
    "Restorer",
    "Shadows",
    "SliceFault",
    "Spread",
    "Template",
    "Uncertain",
    "Working",
    "cache_key",
    "crop_box",
    "describe_looks",
    "is_whole",
    "look_at",
    "name_thin",
    "preprocess",
    "preprocess_labels",
    "ras_view",
    "resident_bytes_of",
    "settle_preprocessing",
    "take_fingerprint",
    "upload",
    "write_case",
]
