"""Which arithmetic to use on the device at hand."""

from typing import Literal

import torch

Precision = Literal["auto", "fp32", "bf16", "fp16"]


def autocast_type(precision: Precision, device: torch.device) -> torch.dtype | None:
    """Return the type that autocast should use, or None for plain float32.

    `auto` takes bfloat16 where the device computes in it natively (AMX or AVX-512 BF16 on x86,
    recent GPUs), float16 on older GPUs, and float32 elsewhere.
    """
    if precision == "auto":
        precision = _native_precision(device)
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def _native_precision(device: torch.device) -> Literal["fp32", "bf16", "fp16"]:
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return "bf16"
    return "fp32"


def choose_device(name: str) -> torch.device:
    """Return the device called `name`; `auto` is the first GPU, or the CPU where there is none."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
