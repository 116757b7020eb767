"""What the training cases look like, one by one and together: what studies are compared with."""

from pipeline.fingerprint.appearance import (
    AIR_HU,
    PADDING_GAP,
    PADDING_SHARE,
    ChannelLook,
    Look,
    Spread,
    look_at,
)
from pipeline.fingerprint.cohort_look import ChannelSpread, CohortLook, describe_looks
from pipeline.fingerprint.continuity import Continuity, SliceFault
from pipeline.fingerprint.fingerprint import (
    Fingerprint,
    LabelStatistics,
    settle_preprocessing,
    take_fingerprint,
)
from pipeline.fingerprint.template import RIGHT, Template

__all__ = [
    "AIR_HU",
    "PADDING_GAP",
    "PADDING_SHARE",
    "RIGHT",
    "ChannelLook",
    "ChannelSpread",
    "CohortLook",
    "Continuity",
    "Fingerprint",
    "LabelStatistics",
    "Look",
    "SliceFault",
    "Spread",
    "Template",
    "describe_looks",
    "look_at",
    "settle_preprocessing",
    "take_fingerprint",
]
