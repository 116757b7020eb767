"""Which loss to minimise, and with what settings."""

import difflib
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, field_validator, model_validator

LossName = Literal[
    "dice_ce",
    "dice",
    "generalised_dice",
    "iou",
    "tversky",
    "focal",
    "focal_tversky",
    "weighted_ce",
    "boundary",
]


class LossConfig(BaseModel):
    """What training minimises."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: LossName = Field(
        default="dice_ce", description=f"One of: {', '.join(get_args(LossName))}."
    )
    alpha: float = Field(
        default=0.3, ge=0, description="tversky, focal_tversky: weight of false positives."
    )
    beta: float = Field(
        default=0.7, ge=0, description="tversky, focal_tversky: weight of false negatives."
    )
    gamma: float | None = Field(
        default=None,
        gt=0,
        description="focal: exponent, 2 by default; focal_tversky: its inverse, 4/3 by default.",
    )
    class_weights: tuple[PositiveFloat, ...] | None = Field(
        default=None,
        description="weighted_ce: of background and each label by value, or of each region; by "
        "default, from the share of voxels that each has.",
    )
    boundary_weight: float = Field(
        default=0.01, ge=0, description="boundary: weight of a mean distance in mm beside dice_ce."
    )

    @field_validator("name", mode="before")
    @classmethod
    def _name_is_known(cls, name: object) -> object:
        names = get_args(LossName)
        if name not in names:
            near = difflib.get_close_matches(str(name), names, n=1)
            nearest = f"did you mean {near[0]}? " if near else ""
            raise ValueError(f"there is no loss {name!r}; {nearest}Valid: {', '.join(names)}")
        return name

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> "LossConfig":
        if self.class_weights is not None and self.name != "weighted_ce":
            raise ValueError(f"class_weights are for weighted_ce; {self.name} has none")
        if self.gamma is not None and self.name not in ("focal", "focal_tversky"):
            raise ValueError(f"gamma is for focal and focal_tversky; {self.name} has none")
        if self.alpha + self.beta == 0:
            raise ValueError("alpha and beta are both 0, so that no error costs anything")
        return self
