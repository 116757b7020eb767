"""What a user may set of how windows are laid over a volume and computed."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt

Precision = Literal["auto", "fp32", "bf16", "fp16"]


MAX_LABEL_CHANGE = 0.005
"""Share of foreground labels that `auto` lets a precision change, against float32."""


def autocast_type(precision: Precision, device: torch.device) -> torch.dtype | None:
    """Return the type that autocast should use, or None for plain float32.

    `auto` takes bfloat16 where the device computes in it natively (AMX or AVX-512 BF16 on x86,
    recent GPUs), float16 on older GPUs, and float32 elsewhere.
    """
    if precision == "auto":
        precision = native_precision(device)
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def proven_precision(
    precision: Precision, device: torch.device, label_change: Mapping[Precision, float]
) -> Precision:
    """Settle `auto`: the device's native precision, if it is known to leave labels as they are.

    Args:
        precision: As asked for; anything but `auto` stays.
        device: To compute on.
        label_change: Share of foreground labels that each precision changed on validation cases;
            one that changed more than `MAX_LABEL_CHANGE`, or was not measured, is not taken.
    """
    if precision != "auto":
        return precision
    native = native_precision(device)
    return native if label_change.get(native, 1.0) <= MAX_LABEL_CHANGE else "fp32"


def native_precision(device: torch.device) -> Literal["fp32", "bf16", "fp16"]:
    """Return the fastest precision that the device computes in natively."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return "bf16"
    return "fp32"


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
