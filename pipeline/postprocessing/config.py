"""How the label map is cleaned up after the network: what a model's configuration says of it."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.errors import ConfigError
from pipeline.postprocessing.crf import CrfConfig
from pipeline.postprocessing.rule import EACH_LABEL, Rule

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
