"""Which arithmetic to use on the device at hand."""

from collections.abc import Mapping
from typing import Literal

import torch

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
