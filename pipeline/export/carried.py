"""Which part of a model's clean-up an exported folder carries.

Exports know two actions, which work on components and whose order is no matter: `keep_largest` and
`min_volume_mm3`. Rules are applied in order, so of a list that holds others they carry the part
before the first of those: later rules would find another label map than the one they were chosen
for. Rules that only warn are passed over. A conditional random field is not carried, but does not
stop the rules.
"""

from collections.abc import Sequence
from typing import Any

from pipeline.model import ModelDescription
from pipeline.postprocessing import EACH_LABEL, Rule
from pipeline.postprocessing.keep import Keep


def keep_rules(description: ModelDescription) -> dict[int, Keep]:
    """Return what components of each label value must be, of the labels with a carried rule."""
    found: dict[int, Keep] = {}
    carried, _ = _divide(description.postprocessing.rules)
    for rule in carried:
        for name, value in description.labels.items():
            if rule.label in (name, EACH_LABEL):
                largest, least_mm3 = found.get(value, Keep(None, 0.0))
                ranks = [n for n in (largest, rule.keep_largest) if n is not None]
                least_mm3 = max(least_mm3, rule.min_volume_mm3 or 0.0)
                found[value] = Keep(min(ranks, default=None), least_mm3)
    return dict(sorted(found.items()))


def declared_rules(description: ModelDescription) -> list[dict[str, Any]]:
    """Return the same for a file."""
    return [
        {"value": value, "keep_largest": rule.largest, "min_volume_mm3": rule.min_volume_mm3}
        for value, rule in keep_rules(description).items()
    ]


def left_out(description: ModelDescription) -> list[str]:
    """Say, one thing each, what of a model's clean-up exports do not carry."""
    config = description.postprocessing
    crf = ["the conditional random field"] if config.crf else []
    _, rest = _divide(config.rules)
    return crf + [f"the rule `{rule}`" for rule in rest]


def _divide(rules: Sequence[Rule]) -> tuple[list[Rule], list[Rule]]:
    """Return the rules that are carried, and the others."""
    carried: list[Rule] = []
    rest: list[Rule] = []
    for rule in rules:
        is_known = rule.keep_largest is not None or rule.min_volume_mm3 is not None
        only_warnings = all(other.volume_ml is not None for other in rest)
        (carried if is_known and only_warnings else rest).append(rule)
    return carried, rest
