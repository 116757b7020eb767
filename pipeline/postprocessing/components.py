"""Drop connected components that are not the organ: all but the largest, or those too small.

Axes: I, J, K = voxel axes.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.errors import ConfigError
from pipeline.postprocessing.keep import Keep, keep_components
from pipeline.volume import Grid

EACH_LABEL = "*"
"""The name in a rule that stands for each label."""

CONNECTIVITY = 26
"""Voxels that share a face, an edge or a corner belong together."""


class ComponentRule(BaseModel):
    """Which connected components of a label to keep."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str = Field(description='Name of a label, or "*" for each label on its own.')
    keep_largest: bool = Field(default=False, description="Keep only the largest component.")
    min_volume_mm3: float = Field(
        default=0.0, ge=0, allow_inf_nan=False, description="Smallest component to keep, in mm^3."
    )

    @model_validator(mode="after")
    def _does_something(self) -> "ComponentRule":
        if not self.keep_largest and self.min_volume_mm3 == 0:
            raise ValueError("a rule needs keep_largest: true or a min_volume_mm3 above 0")
        return self


class PostprocessingConfig(BaseModel):
    """How labels are cleaned up after the network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    components: tuple[ComponentRule, ...] = Field(
        default=(), description="All rules that name a label apply to it; their order is no matter."
    )


def check_rules(labels: Mapping[str, int], config: PostprocessingConfig) -> None:
    """Make sure that each rule names a label that exists.

    Raises:
        ConfigError: If a rule names an unknown label.
    """
    for number, rule in enumerate(config.components):
        if rule.label != EACH_LABEL and rule.label not in labels:
            raise ConfigError(
                f"postprocessing.components[{number}].label",
                f"unknown label {rule.label!r}",
                f'Use one of {", ".join(labels)}, or "{EACH_LABEL}" for each.',
            )


def postprocess(
    labels_IJK: npt.NDArray[np.unsignedinteger],
    grid: Grid,
    labels: Mapping[str, int],
    config: PostprocessingConfig,
) -> npt.NDArray[np.unsignedinteger]:
    """Set to background the components that the rules do not keep.

    Each label is cleaned on its own, so structures that touch never merge. Where several rules
    apply to a label, a component must pass them all: a label whose largest component is below
    `min_volume_mm3` vanishes. Of several largest components of equal size, the one that holds the
    voxel with the smallest index `(i, j, k)`, compared in that order, is kept.

    Args:
        labels_IJK: `(I, J, K)` label map; 0 is background.
        grid: Where the voxels lie; gives the volume of one.
        labels: Foreground labels, name to value.
        config: The rules.

    Returns:
        A new `(I, J, K)` label map of the same type; the input is not changed.

    Raises:
        ConfigError: If a rule names an unknown label.
        ValueError: If the label map and the grid have different shapes.
    """
    if labels_IJK.shape != grid.shape:
        raise ValueError(f"Label map {labels_IJK.shape} does not fit the grid {grid.shape}.")
    check_rules(labels, config)
    rules = keep_rules(labels, config)
    return keep_components(labels_IJK, rules, grid.voxel_volume_mm3, _find_components)


def keep_rules(labels: Mapping[str, int], config: PostprocessingConfig) -> dict[int, Keep]:
    """Return what components of each label value must be, of the labels that have a rule."""
    rules = {}
    for name, value in labels.items():
        of_label = [rule for rule in config.components if rule.label in (name, EACH_LABEL)]
        if of_label:
            largest = any(rule.keep_largest for rule in of_label)
            rules[value] = Keep(largest, max(rule.min_volume_mm3 for rule in of_label))
    return rules


def _find_components(mask_IJK: npt.NDArray[np.bool_]) -> npt.NDArray[np.integer]:
    import cc3d

    # As uint8: cc3d 4.1.1 fails on booleans one voxel wide, such as [1, 0, 1].
    components: npt.NDArray[np.integer] = cc3d.connected_components(
        mask_IJK.view(np.uint8), connectivity=CONNECTIVITY
    )
    return components
