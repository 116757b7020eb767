"""Parameters of the conditional random field."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

Normalisation = Literal["row", "symmetric"]


class CrfConfig(BaseModel):
    """Strength and reach of the two kernels, and how often messages go round.

    Attributes:
        theta_position_mm: Reach of the appearance kernel: voxels further apart hardly matter to
            each other.
        theta_intensity: How alike two voxels must look, in robust units: 1.4826 times the median
            absolute deviation of the image at the voxels that may change.
        weight_appearance: Of that kernel; 0 turns it off.
        theta_smoothness_mm: Reach of the kernel that looks at position only.
        weight_smoothness: Of that kernel; 0 turns it off.
        iterations: Rounds of messages.
        normalisation: Of the messages: `row` makes each a mean over the voxels around;
            `symmetric` divides by the root of both voxels' neighbourhoods, as pydensecrf does.

    Source:
        Krähenbühl and Koltun, Efficient Inference in Fully Connected CRFs with Gaussian Edge
        Potentials, NeurIPS 2011, arXiv:1210.5644.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    theta_position_mm: PositiveFloat = 5.0
    theta_intensity: PositiveFloat = 0.5
    weight_appearance: float = Field(default=5.0, ge=0, allow_inf_nan=False)
    theta_smoothness_mm: PositiveFloat = 2.0
    weight_smoothness: float = Field(default=2.0, ge=0, allow_inf_nan=False)
    iterations: PositiveInt = 5
    normalisation: Normalisation = "row"
