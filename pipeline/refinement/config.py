"""Settings of a refinement: those of the field, and how far boundaries may move."""

from pydantic import Field

from pipeline.postprocessing.crf import BAND_MM, CrfConfig
from pipeline.study import StudyConfig


class RefinementConfig(CrfConfig):
    """The conditional random field's parameters, and what a segmentation from elsewhere needs.

    Attributes:
        band_mm: Voxels of a label map further than this from another label keep theirs.
            Probabilities have no band: they tell by themselves which voxels are uncertain.
        study: What to do with an odd image.
    """

    band_mm: float = Field(default=BAND_MM, gt=0, le=1000, allow_inf_nan=False)
    study: StudyConfig = StudyConfig()
