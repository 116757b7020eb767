"""What a user may set of how windows are laid over a volume and computed."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from pipeline.inference.precision import Precision

FlipAxis = Literal["R", "A", "S"]
Activation = Literal["softmax", "sigmoid"]
WindowSize = Annotated[PositiveInt, Field(le=1024)]

MAX_OVERLAP = 0.9
"""Each voxel is then computed a thousand times; at 0.5, eight times."""


class InferenceConfig(BaseModel):
    """How windows are laid over a volume and computed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    window: tuple[WindowSize, WindowSize, WindowSize] | None = Field(
        default=None, description="Window in working voxels; the training patch if not given."
    )
    overlap: float = Field(
        default=0.5, ge=0, le=MAX_OVERLAP, description="Share of a window's edge."
    )
    batch_size: PositiveInt | None = Field(
        default=None,
        le=4096,
        description="Windows computed at once; if not given, what suits the device. Another number "
        "may change single voxels, where two labels are equally probable up to rounding.",
    )
    precision: Precision = Field(
        default="auto",
        description="Of the network's arithmetic; auto is the fastest that hardly changed a label "
        "of the model's own validation cases.",
    )
    mirror: bool = Field(
        default=False,
        description="Average over mirrored windows too, along the axes that training mirrored: "
        "twice the time for one axis, four times for two, eight for three.",
    )

    def check_mirror(self, mirror_axes: Sequence[FlipAxis]) -> None:
        """Refuse to mirror what the network never saw mirrored.

        Raises:
            ValueError: If mirroring is asked for and `mirror_axes` is empty.
        """
        if self.mirror and not mirror_axes:
            raise ValueError(
                "inference.mirror=true, but the training patches were mirrored along no axis; "
                "leave it out, or train with augmentation.flip_axes"
            )
