"""Which loss to minimise: its settings, and from its name to the loss.

Axes: B = patch, C = class, R = region, I, J, K = voxel axes.
"""

import difflib
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, field_validator, model_validator

from pipeline.errors import ConfigError
from pipeline.losses.comparison import (
    Comparison,
    compare_classes,
    compare_regions,
    weights_from_shares,
)
from pipeline.losses.losses import (
    Spacing,
    boundary_loss,
    cross_entropy,
    dice_loss,
    focal_loss,
    focal_tversky_loss,
    generalised_dice_loss,
    iou_loss,
    sum_overlap,
    tversky_loss,
    weighted_cross_entropy,
)

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


Logits = torch.Tensor | Sequence[torch.Tensor]


class Loss(torch.nn.Module):
    """How far logits are from the annotation. Called with logits, target and what is annotated.

    Args:
        config: Which loss.
        table_RC: bool, the classes (background first) of each region; None for exclusive classes.
        weight_C2: For `weighted_ce`; see `weighted_cross_entropy`.
        spacing_mm: Distance between the voxels of the finest logits.
    """

    table_RC: torch.Tensor | None
    weight_C2: torch.Tensor | None

    def __init__(
        self,
        config: LossConfig,
        table_RC: torch.Tensor | None,
        weight_C2: torch.Tensor | None,
        spacing_mm: Spacing,
    ) -> None:
        super().__init__()
        self._config = config
        self._spacing_mm = spacing_mm
        self.register_buffer("table_RC", table_RC)
        self.register_buffer("weight_C2", weight_C2)

    def forward(
        self,
        logits: Logits,
        target_BIJK: torch.Tensor,
        annotated_BC: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the loss of a batch.

        Args:
            logits: `(B, C, I, J, K)`, background first, or `(B, R, I, J, K)`. Or a list of such,
                finest first: the target is then read at every so many voxels, and each one weighs
                half as much as that before it.
            target_BIJK: int64 class indices; `IGNORE_INDEX` where nobody annotated.
            annotated_BC: `(B, C - 1)` bool, which foreground classes each patch's case annotates;
                all of them if None. Best left on the CPU.

        Returns:
            A scalar; 0 if nothing is annotated.

        Source:
            Deep supervision and its weights: Isensee et al., Nature Methods 18, 2021,
            doi:10.1038/s41592-020-01008-z.
        """
        levels = [logits] if isinstance(logits, torch.Tensor) else logits
        weights = [0.5**level for level in range(len(levels))]
        losses = [
            weight * self._loss_at(level_BCIJK, target_BIJK, annotated_BC)
            for weight, level_BCIJK in zip(weights, levels, strict=True)
        ]
        return torch.stack(losses).sum() / sum(weights)

    def _loss_at(
        self,
        logits_BCIJK: torch.Tensor,
        target_BIJK: torch.Tensor,
        annotated_BC: torch.Tensor | None,
    ) -> torch.Tensor:
        coarse_BIJK = read_nearest(target_BIJK, logits_BCIJK.shape[2:])
        sizes = zip(self._spacing_mm, target_BIJK.shape[1:], coarse_BIJK.shape[1:], strict=True)
        i, j, k = (mm * fine / coarse for mm, fine, coarse in sizes)
        if self.table_RC is None:
            comparison = compare_classes(logits_BCIJK, coarse_BIJK, annotated_BC)
        else:
            comparison = compare_regions(logits_BCIJK, coarse_BIJK, self.table_RC, annotated_BC)
        return self._combine(comparison, (i, j, k))

    def _combine(self, comparison: Comparison, spacing_mm: Spacing) -> torch.Tensor:
        config = self._config
        match config.name:
            case "focal":
                return focal_loss(comparison, config.gamma or 2.0)
            case "weighted_ce":
                assert self.weight_C2 is not None
                return weighted_cross_entropy(comparison, self.weight_C2)
        all_sums = sum_overlap(comparison)
        sums = all_sums.foreground if comparison.has_background else all_sums
        match config.name:
            case "dice":
                return dice_loss(sums)
            case "generalised_dice":
                return generalised_dice_loss(all_sums)
            case "iou":
                return iou_loss(sums)
            case "tversky":
                return tversky_loss(sums, config.alpha, config.beta)
            case "focal_tversky":
                return focal_tversky_loss(sums, config.alpha, config.beta, config.gamma or 4 / 3)
        loss = dice_loss(sums) + cross_entropy(comparison)
        if config.name == "boundary":
            loss = loss + config.boundary_weight * boundary_loss(comparison, spacing_mm)
        return loss


def build_loss(
    config: LossConfig,
    num_classes: int,
    *,
    regions: Sequence[Sequence[int]] = (),
    shares: Sequence[float] | None = None,
    spacing_mm: Spacing = (1.0, 1.0, 1.0),
) -> Loss:
    """Make the loss that a configuration names.

    Args:
        config: Which loss, and its settings.
        num_classes: Number of classes, background included.
        regions: Class indices of each region, if the network's outputs are overlapping regions.
        shares: Share of voxels of each class, for `weighted_ce` without weights of its own.
        spacing_mm: Distance between voxels of the network's grid, for `boundary`.

    Raises:
        ConfigError: If the number of class weights differs from that of classes or regions.
        ValueError: If `weighted_ce` has neither weights nor shares.
    """
    table_RC = None
    if regions:
        table_RC = torch.zeros(len(regions), num_classes, dtype=torch.bool)
        for row_C, classes in zip(table_RC, regions, strict=True):
            row_C[list(classes)] = True
    weight_C2 = None
    if config.name == "weighted_ce":
        weight_C2 = _class_weights(config, num_classes, table_RC, shares)
    return Loss(config, table_RC, weight_C2, spacing_mm)


def read_nearest(target_BIJK: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Read class indices on a coarser grid, whose voxels lie on the first of each so many.

    That is where strided convolutions place them.
    """
    for axis, num_voxels in enumerate(size, start=1):
        available = target_BIJK.shape[axis]
        if num_voxels != available:
            indices = torch.arange(num_voxels, device=target_BIJK.device) * available // num_voxels
            target_BIJK = target_BIJK.index_select(axis, indices)
    return target_BIJK


def _class_weights(
    config: LossConfig,
    num_classes: int,
    table_RC: torch.Tensor | None,
    shares: Sequence[float] | None,
) -> torch.Tensor:
    """Return the weights of a voxel outside and inside of each class or region, `(C, 2)`."""
    expected = num_classes if table_RC is None else len(table_RC)
    if config.class_weights is not None:
        if len(config.class_weights) != expected:
            kind = "background and each label" if table_RC is None else "each region"
            found = f"{len(config.class_weights)} weights, not {expected}"
            raise ConfigError("loss.class_weights", found, f"Give one for {kind}.")
        inside_C = torch.tensor(config.class_weights)
        return torch.stack([torch.ones(expected), inside_C], dim=1)
    if shares is None:
        raise ValueError("weighted_ce needs class weights or shares")
    share_C = torch.tensor(shares)
    if table_RC is not None:
        share_C = table_RC.to(share_C) @ share_C
    return torch.stack([weights_from_shares(1 - share_C), weights_from_shares(share_C)], dim=1)
