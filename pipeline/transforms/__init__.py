"""To the network's grid and scale, and back: RAS, crop, spacing, intensity, patches, augmentation.

`preprocess` and `Restorer` are inverse to each other and share one `Placement`, so that the way
back cannot drift from the way in.
"""

from pipeline.transforms.config import (
    AugmentationConfig,
    ChannelNormalisation,
    Preprocessing,
    PreprocessingConfig,
)
from pipeline.transforms.foreground import Shadows
from pipeline.transforms.orientation import ras_view
from pipeline.transforms.placement import Placement
from pipeline.transforms.preprocess import (
    MAX_WORKING_VOXELS,
    Working,
    preprocess,
    preprocess_labels,
)
from pipeline.transforms.resample import SLAB_VOXELS
from pipeline.transforms.restore import Restorer
from pipeline.transforms.tiles import ProbabilityBlock, ProbabilitySink
from pipeline.transforms.transfer import Landing, upload
from pipeline.transforms.uncertainty import CERTAIN, Uncertain

__all__ = [
    "CERTAIN",
    "MAX_WORKING_VOXELS",
    "SLAB_VOXELS",
    "AugmentationConfig",
    "ChannelNormalisation",
    "Landing",
    "Placement",
    "Preprocessing",
    "PreprocessingConfig",
    "ProbabilityBlock",
    "ProbabilitySink",
    "Restorer",
    "Shadows",
    "Uncertain",
    "Working",
    "preprocess",
    "preprocess_labels",
    "ras_view",
    "upload",
]
