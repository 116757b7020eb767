"""Clean up a label map after the network, as the model's configuration says.

`postprocess()` applies a configuration, `apply_rules()` a list of rules; `check_rules()` tells
beforehand whether they fit a label set.
"""

from pipeline.postprocessing.config import PostprocessingConfig, check_rules
from pipeline.postprocessing.rule import EACH_LABEL, Rule
from pipeline.postprocessing.rules import Cleaned, apply_rules, postprocess

__all__ = [
    "EACH_LABEL",
    "Cleaned",
    "PostprocessingConfig",
    "Rule",
    "apply_rules",
    "check_rules",
    "postprocess",
]
