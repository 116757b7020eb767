"""How a label map is cleaned up after the network: rules and settings of a model."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from pipeline.errors import ConfigError
from pipeline.postprocessing.crf import CrfConfig

EACH_LABEL = "*"
"""The name in a rule that stands for each label."""

MAX_REACH_MM = 100.0
"""Of what shapes are changed by; what it costs grows with it."""

Holes = Literal["3d", "axial", "coronal", "sagittal"]
"""Of a volume, or of each slice: of those that look along S, A or R."""


class Rule(BaseModel):
    """What is done to a label: one action, with its measure in physical units.

    Components are voxels of one label that share a face, an edge or a corner; other labels never
    join them.

    Attributes:
        label: Name of a label, or `*` for each label on its own.
        keep_largest: Remove all but this many largest components. Of components of equal size the
            one that holds the voxel with the smallest index `(i, j, k)`, compared in that order,
            comes first.
        min_volume_mm3: Remove components smaller than this.
        touches: Remove components that share no face, edge or corner with this other label.
        inside: Remove components of whose surface, in mm^2, less than half borders on this other
            label.
        one_per_side: Remove all but the largest component of each side of the patient; see
            `pipeline.postprocessing.shape`.
        fill_holes: Give the label the background that it encloses: in the volume, or in each slice
            of a plane.
        close_mm: Give the label the background in gaps that a ball of this radius does not fit in.
        smooth_mm: Smooth the surface between the label and background by a Gaussian of this
            standard deviation.
        volume_ml: Warn where the label's volume is not between these two; nothing changes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str
    keep_largest: PositiveInt | None = Field(default=None, le=10**6)
    min_volume_mm3: PositiveFloat | None = Field(default=None, le=1e12, allow_inf_nan=False)
    touches: str | None = None
    inside: str | None = None
    one_per_side: Literal[True] | None = None
    fill_holes: Holes | None = None
    close_mm: PositiveFloat | None = Field(default=None, le=MAX_REACH_MM, allow_inf_nan=False)
    smooth_mm: PositiveFloat | None = Field(default=None, le=MAX_REACH_MM, allow_inf_nan=False)
    volume_ml: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _does_one_thing(self) -> "Rule":
        actions = self._actions()
        if not actions:
            raise ValueError(f"a rule needs one of {', '.join(_ACTIONS)}")
        if len(actions) > 1:
            raise ValueError(
                f"a rule does one thing, not {' and '.join(actions)}: "
                "write a rule for each, in the order in which they are to be applied"
            )
        if self.other == self.label:
            raise ValueError(f"{actions[0]} needs another label than {self.label!r} itself")
        if self.volume_ml and not 0 <= self.volume_ml[0] <= self.volume_ml[1] < math.inf:
            raise ValueError("volume_ml needs two volumes, the smaller first")
        return self

    @model_serializer(mode="wrap")
    def _what_is_set(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None}

    def _actions(self) -> list[str]:
        return [name for name in _ACTIONS if getattr(self, name) is not None]

    @property
    def action(self) -> str:
        """The name of the one thing that it does."""
        return self._actions()[0]

    @property
    def other(self) -> str | None:
        """The label that components must touch or lie inside, if the rule is about that."""
        return self.touches or self.inside

    def __str__(self) -> str:
        return f"{self.label}: {self.action} {getattr(self, self.action)}"


_ACTIONS = tuple(name for name in Rule.model_fields if name != "label")


MAX_RULES = 5000


class PostprocessingConfig(BaseModel):
    """How labels are cleaned up after the network.

    Attributes:
        rules: Applied in this order, each to what the ones before left.
        crf: Conditional random field, applied before the rules; None for none.
        crf_labels: Labels that the field may change; None for all.
        largest_change: Of each label, the largest share of its voxels that post-processing gained
            or lost on validation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rules: tuple[Rule, ...] = Field(default=(), max_length=MAX_RULES)
    crf: CrfConfig | None = None
    crf_labels: tuple[str, ...] | None = None
    largest_change: Mapping[str, float] = {}

    @model_validator(mode="before")
    @classmethod
    def _read_components(cls, values: object) -> object:
        """Read `components`, as models that were trained before there were rules have it."""
        if not isinstance(values, dict) or not isinstance(values.get("components"), list | tuple):
            return values
        if values.get("rules"):
            raise ValueError("components is the old name of rules: write all of them as rules")
        rest = {key: value for key, value in values.items() if key != "components"}
        rules = [rule for old in values["components"] for rule in _translate(old)]
        return {**rest, "rules": rules}


_OLD_ACTIONS = ("keep_largest", "min_volume_mm3")


def _translate(old: object) -> Iterator[object]:
    """Yield a rule for each thing that a rule of old does; their order is no matter."""
    if not isinstance(old, dict):
        yield old
        return
    actions: dict[str, Any] = {}
    if old.get("keep_largest"):
        actions["keep_largest"] = 1
    if old.get("min_volume_mm3"):
        actions["min_volume_mm3"] = old["min_volume_mm3"]
    rest = {key: value for key, value in old.items() if key not in _OLD_ACTIONS}
    for key, value in actions.items():
        yield {**rest, key: value}
    if not actions:
        yield rest


def check_rules(labels: Mapping[str, int], config: PostprocessingConfig) -> None:
    """Make sure that all labels that are named exist.

    Raises:
        ConfigError: Naming the rule and the valid labels.
    """
    names = ", ".join(labels)
    for number, rule in enumerate(config.rules):
        where = f"postprocessing.rules[{number}]"
        if rule.label != EACH_LABEL and rule.label not in labels:
            remedy = f'Use one of {names}, or "{EACH_LABEL}" for each.'
            raise ConfigError(f"{where}.label", f"unknown label {rule.label!r}", remedy)
        if rule.other is not None and rule.other not in labels:
            found = f"unknown label {rule.other!r}"
            raise ConfigError(f"{where}.{rule.action}", found, f"Use one of {names}.")
    for name in config.crf_labels or ():
        if name not in labels:
            found = f"unknown label {name!r}"
            raise ConfigError("postprocessing.crf_labels", found, f"Use one of {names}.")
