"""Parameters of the conditional random field."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Normalisation = Literal["row", "symmetric"]

FEW_CLASSES = 8
"""Up to so many classes, each voxel that may change keeps the probabilities of all of them."""

MOST_SLOTS = 4
"""Probabilities that are kept of each voxel where there are more classes, the largest ones."""

MAX_ITERATIONS = 100

Cost = Annotated[float, Field(ge=-1e6, le=1e6)]


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
        compatibility: Row by class, column by class, background first: what it costs a voxel to be
            of the row's class beside voxels of the column's. None: the Potts model, 1 for different
            classes. For at most eight classes.

    Source:
        Krähenbühl and Koltun, Efficient Inference in Fully Connected CRFs with Gaussian Edge
        Potentials, NeurIPS 2011, arXiv:1210.5644.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    theta_position_mm: float = Field(default=3.0, ge=1e-3, le=1000, allow_inf_nan=False)
    theta_intensity: float = Field(default=0.5, ge=1e-3, le=1e6, allow_inf_nan=False)
    weight_appearance: float = Field(default=3.0, ge=0, le=1e6, allow_inf_nan=False)
    theta_smoothness_mm: float = Field(default=2.0, ge=1e-3, le=1000, allow_inf_nan=False)
    weight_smoothness: float = Field(default=1.0, ge=0, le=1e6, allow_inf_nan=False)
    iterations: int = Field(default=5, ge=1, le=MAX_ITERATIONS)
    normalisation: Normalisation = "row"
    compatibility: tuple[tuple[Cost, ...], ...] | None = None

    @model_validator(mode="after")
    def _is_square(self) -> "CrfConfig":
        rows = self.compatibility or ()
        if any(len(row) != len(rows) for row in rows):
            raise ValueError("compatibility needs as many columns as rows, one for each class")
        if len(rows) > FEW_CLASSES:
            raise ValueError(f"compatibility is for at most {FEW_CLASSES} classes")
        return self

    def check_classes(self, num_classes: int) -> None:
        """Make sure that the compatibility fits a number of classes, background included.

        Raises:
            ValueError: If it does not.
        """
        if self.compatibility is not None and len(self.compatibility) != num_classes:
            found = len(self.compatibility)
            raise ValueError(f"compatibility is for {found} classes, not for {num_classes}")


def num_slots(num_classes: int) -> int:
    """Return how many probabilities of each voxel the field weighs."""
    return num_classes if num_classes <= FEW_CLASSES else MOST_SLOTS
