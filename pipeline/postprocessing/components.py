"""Drop connected components that are not the organ: all but the largest, or those too small.

Axes: I, J, K = voxel axes; N counts the voxels of one label, in the order of their indices.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy import ndimage

from pipeline.errors import ConfigError
from pipeline.volume import Grid

EACH_LABEL = "*"
"""The name in a rule that stands for each label."""

CONNECTIVITY = 26
"""Voxels that share a face, an edge or a corner belong together."""

VOLUME_ROUNDING = 1e-6
"""Relative shortfall of a volume that is put down to rounding: affines are stored as float32."""


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
    cleaned = labels_IJK.copy()
    boxes = ndimage.find_objects(labels_IJK, max(labels.values(), default=1))
    for name, value in labels.items():
        rules = [rule for rule in config.components if rule.label in (name, EACH_LABEL)]
        box = boxes[value - 1]
        if not rules or box is None:
            continue
        mask_IJK = labels_IJK[box] == value
        component_N = _components(mask_IJK)
        kept = np.bincount(component_N) * grid.voxel_volume_mm3 * (1 + VOLUME_ROUNDING) >= max(
            rule.min_volume_mm3 for rule in rules
        )
        if any(rule.keep_largest for rule in rules):
            kept &= np.arange(len(kept)) == _largest(component_N)
        cleaned[box][mask_IJK] = np.where(kept[component_N], value, 0)
    return cleaned


def _components(mask_IJK: npt.NDArray[np.bool_]) -> npt.NDArray[np.integer]:
    """Return the number of the component that each voxel of the mask belongs to, `(N,)`."""
    import cc3d

    # As uint8: cc3d 4.1.1 fails on booleans one voxel wide, such as [1, 0, 1].
    components: npt.NDArray[np.integer] = cc3d.connected_components(
        mask_IJK.view(np.uint8), connectivity=CONNECTIVITY
    )
    return components[mask_IJK]


def _largest(component_N: npt.NDArray[np.integer]) -> int:
    sizes = np.bincount(component_N)
    is_largest = sizes == sizes.max()
    return int(component_N[np.argmax(is_largest[component_N])])
