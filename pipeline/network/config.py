"""What a network is: its name, its levels, and the options that its kind takes."""

import difflib
from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

Size = tuple[int, int, int]
Kernel = tuple[Literal[1, 3, 5, 7], Literal[1, 3, 5, 7], Literal[1, 3, 5, 7]]
Stride = tuple[Literal[1, 2], Literal[1, 2], Literal[1, 2]]
Preset = Literal["small", "medium", "large"]

MAX_FEATURES, MAX_LEVELS = 2**14, 16
"""Many times what anybody trains; a network beyond is a mistake, or made to cost memory."""

# The networks, and which of the options below each takes; all take features, kernels and strides.
OPTIONS: Mapping[str, frozenset[str]] = {
    "unet": frozenset({"upsampling", "dropout", "deep_supervision"}),
    "residual_unet": frozenset({"blocks", "preset", "upsampling", "dropout", "deep_supervision"}),
    "attention_unet": frozenset({"blocks", "upsampling", "dropout", "deep_supervision"}),
    "unet_plus_plus": frozenset({"blocks", "upsampling", "dropout", "deep_supervision"}),
    "unetr": frozenset({"blocks", "upsampling", "dropout", "deep_supervision"}),
    "trans_unet": frozenset({"blocks", "upsampling", "dropout", "deep_supervision"}),
    "mednext": frozenset({"blocks", "expansion", "deep_supervision"}),
    "light_unet": frozenset({"blocks", "upsampling", "dropout", "deep_supervision"}),
    "fcn": frozenset({"blocks", "upsampling", "dropout"}),
    "segnet": frozenset({"blocks", "dropout"}),
}
# Blocks of a level where the configuration gives none: at the finest, between, at the deepest.
_BLOCKS: Mapping[str, tuple[int, int, int]] = {
    "residual_unet": (1, 2, 2),
    "unetr": (1, 2, 2),
    "trans_unet": (2, 2, 4),
}
# nnU-Net's residual encoders M, L and XL share their widths and blocks and differ in patch, batch
# and so in depth (Isensee et al. 2024); `small` is ours, for patches of a few centimetres on a CPU.
PRESETS: Mapping[Preset, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "small": ((16, 32, 64, 128), (1, 2, 2, 2)),
    "medium": ((32, 64, 128, 256, 320), (1, 3, 4, 6, 6)),
    "large": ((32, 64, 128, 256, 320, 320), (1, 3, 4, 6, 6, 6)),
}


class Level(NamedTuple):
    """One resolution of a network.

    Attributes:
        features: Channels.
        kernel_size: Of its convolutions, in voxels of this level.
        stride: From the level above, which is finer; 1 everywhere at the finest.
        blocks: How many of the network's building blocks it stacks.
    """

    features: int
    kernel_size: Size
    stride: Size
    blocks: int


class NetworkConfig(BaseModel):
    """A network by name and shape; tuples hold one entry per level, the finest first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(default="unet", description=f"One of {', '.join(OPTIONS)}.")
    preset: Preset | None = Field(
        default=None, description="Features and blocks of a residual_unet of this size."
    )
    features: tuple[Annotated[int, Field(ge=1, le=MAX_FEATURES)], ...] = Field(
        default=(16, 32, 64, 128),
        min_length=3,
        max_length=MAX_LEVELS,
        description="Channels of each level.",
    )
    kernel_sizes: tuple[Kernel, ...] | None = Field(
        default=None, description="Of each level's convolutions; none: 3 along every axis."
    )
    strides: tuple[Stride, ...] | None = Field(
        default=None, description="To each level from the one above; none: 2 along every axis."
    )
    blocks: tuple[Annotated[int, Field(ge=1, le=24)], ...] | None = Field(
        default=None,
        description="Building blocks stacked at each level: convolutions; residual, transformer or "
        "MedNeXt blocks in the networks made of them. None: what suits the network.",
    )
    expansion: int | None = Field(
        default=None, ge=1, le=64, description="Widening inside the blocks of mednext; none: 2."
    )
    upsampling: Literal["transposed", "linear"] = Field(
        default="transposed", description="Learned, or by interpolation."
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Share of features left out.")
    deep_supervision: bool = Field(
        default=False, description="Train on the logits of the coarser levels too."
    )

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, values: object) -> object:
        if isinstance(values, dict) and str(values.get("preset")) in PRESETS:
            features, blocks = PRESETS[values["preset"]]
            return {"features": features, "blocks": blocks} | values
        return values

    @model_validator(mode="after")
    def _fits_together(self) -> "NetworkConfig":
        if self.name not in OPTIONS:
            near = difflib.get_close_matches(self.name, OPTIONS, n=1, cutoff=0.4)
            valid = f"did you mean {near[0]}? Valid" if near else "valid"
            raise ValueError(f"there is no network {self.name!r}; {valid}: {', '.join(OPTIONS)}")
        self._check_options()
        self._check_levels()
        if self.preset and (self.features, self.blocks) != PRESETS[self.preset]:
            raise ValueError(
                f"preset={self.preset} sets features and blocks; leave out either it or them"
            )
        return self

    def _check_options(self) -> None:
        for option in sorted(set().union(*OPTIONS.values()) - OPTIONS[self.name]):
            if getattr(self, option) != type(self).model_fields[option].default:
                others = ", ".join(name for name in OPTIONS if option in OPTIONS[name])
                raise ValueError(
                    f"{self.name} has no {option}; leave it out, or choose one of {others}"
                )

    def _check_levels(self) -> None:
        for key in ("kernel_sizes", "strides", "blocks"):
            entries = getattr(self, key)
            if entries is not None and len(entries) != len(self.features):
                raise ValueError(
                    f"{key} has {len(entries)} entries, but features has {len(self.features)}; "
                    "give one per level"
                )
        if self.strides is not None and self.strides[0] != (1, 1, 1):
            raise ValueError(
                f"strides begin with {list(self.strides[0])}, but the finest level is the image's: "
                "begin with [1, 1, 1]"
            )

    @property
    def levels(self) -> tuple[Level, ...]:
        """Every level, the finest first, with what the configuration left open filled in."""
        depth = len(self.features)
        finest, between, deepest = _BLOCKS.get(self.name, (2, 2, 2))
        return tuple(
            Level(*level)
            for level in zip(
                self.features,
                self.kernel_sizes or [(3, 3, 3)] * depth,
                self.strides or [(1, 1, 1)] + [(2, 2, 2)] * (depth - 1),
                self.blocks or [finest] + [between] * (depth - 2) + [deepest],
                strict=True,
            )
        )

    @property
    def divisors(self) -> Size:
        """Windows must be a multiple of this many voxels along each axis."""
        i, j, k = np.prod([level.stride for level in self.levels], axis=0).tolist()
        return i, j, k

    def check_size(self, key: str, size: Size) -> None:
        """Refuse a window that the levels cannot halve often enough.

        Raises:
            ValueError: Naming `key`, its value and what would do.
        """
        divisors = self.divisors
        if any(n % divisor for n, divisor in zip(size, divisors, strict=True)):
            raise ValueError(
                f"{key}={list(size)} must be multiples of {_short(divisors)}, since the network "
                f"has {len(self.features)} levels"
            )
        if size == divisors:
            more = 2 * divisors[0] if len(set(divisors)) == 1 else "twice as many voxels"
            raise ValueError(
                f"{key}={list(size)} leaves a single voxel at the network's deepest level; use "
                f"{more} along some axis"
            )


def _short(divisors: Size) -> str:
    return str(divisors[0]) if len(set(divisors)) == 1 else str(list(divisors))
