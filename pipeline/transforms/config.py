"""What preprocessing is asked for, what was settled on the training cases, and augmentation."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.manifest import ChannelSchemes, Scheme

SpacingMm = Annotated[float, Field(ge=1e-7, le=1000, allow_inf_nan=False)]
Triple = tuple[SpacingMm, SpacingMm, SpacingMm]

Intensity = Annotated[float, Field(ge=-1e15, le=1e15)]

MAX_MARGIN_MM = 10_000


class PreprocessingConfig(ChannelSchemes):
    """What a user may ask of preprocessing; the rest is settled on the training cases."""

    spacing_mm: Triple | None = Field(
        default=None, description="Working spacing along R, A, S in mm; the median if not given."
    )
    crop_margin_mm: float = Field(
        default=10.0,
        ge=0,
        le=MAX_MARGIN_MM,
        allow_inf_nan=False,
        description="Kept around the foreground's bounding box, in mm.",
    )


class ChannelNormalisation(BaseModel):
    """How the intensities of one channel are brought to the network's scale.

    Attributes:
        kind: The scheme. Models of earlier versions call `zscore_nonzero` `mr`.
        low: For `ct`, like the three below: the values that intensities are clipped to, then the
            mean that is subtracted and the deviation that divides. They come from the foreground of
            the training cases.
        hounsfield: Whether values are Hounsfield units, so that air is told by its value; in models
            of earlier versions where the kind is `ct`.

    Source:
        Isensee et al., nnU-Net, Nature Methods 18, 2021, doi:10.1038/s41592-020-01008-z.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Scheme
    low: Intensity = 0.0
    high: Intensity = 1.0
    mean: Intensity = 0.0
    std: float = Field(default=1.0, ge=1e-9, le=1e15)
    hounsfield: bool = False

    @model_validator(mode="before")
    @classmethod
    def _as_in_earlier_versions(cls, values: Any) -> Any:  # noqa: ANN401
        if not isinstance(values, Mapping) or "kind" not in values:
            return values
        kind = "zscore_nonzero" if values["kind"] == "mr" else values["kind"]
        return {"hounsfield": kind == "ct", **values, "kind": kind}

    @model_validator(mode="after")
    def _low_is_not_above_high(self) -> "ChannelNormalisation":
        if self.low > self.high:
            raise ValueError(f"low={self.low} is above high={self.high}")
        return self


class Preprocessing(BaseModel):
    """Everything that takes a study to the network's grid and scale; stored in the model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spacing_mm: Triple
    crop_margin_mm: float = Field(ge=0, le=MAX_MARGIN_MM, allow_inf_nan=False)
    channels: tuple[ChannelNormalisation, ...]


class AugmentationConfig(BaseModel):
    """Random changes to training patches. Probabilities are per patch; ranges are symmetric."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    flip_axes: tuple[Literal["R", "A", "S"], ...] = Field(
        default=(), description="Axes that may be mirrored: only where no label names a side."
    )
    affine_probability: float = Field(default=0.5, ge=0, le=1)
    rotation_degrees: float = Field(default=15.0, ge=0, le=180)
    scale_range: float = Field(default=0.15, ge=0, lt=1)
    elastic_probability: float = Field(
        default=0.0, ge=0, le=1, description="Of smooth bending, as between two patients."
    )
    elastic_mm: float = Field(
        default=4.0, ge=0, allow_inf_nan=False, description="Largest shift of a control point."
    )
    elastic_spacing_mm: float = Field(
        default=30.0, gt=0, allow_inf_nan=False, description="From one control point to the next."
    )
    noise_probability: float = Field(default=0.15, ge=0, le=1)
    blur_probability: float = Field(default=0.1, ge=0, le=1)
    contrast_probability: float = Field(default=0.15, ge=0, le=1)
    brightness_probability: float = Field(default=0.15, ge=0, le=1)
    low_resolution_probability: float = Field(
        default=0.0, ge=0, le=1, description="Of simulating a coarser scan."
    )
    gamma_probability: float = Field(default=0.15, ge=0, le=1)

    @model_validator(mode="after")
    def _does_not_fold(self) -> "AugmentationConfig":
        # Choi and Lee, Graphical Models 62, 2000, doi:10.1006/gmod.2000.0531: a cubic B-spline in
        # three dimensions is one-to-one if no control point moves by more than 0.4 of the spacing.
        if self.elastic_mm > 0.4 * self.elastic_spacing_mm:
            limit = 0.4 * self.elastic_spacing_mm
            raise ValueError(f"elastic_mm={self.elastic_mm:g} folds tissue; at most {limit:g}")
        return self
