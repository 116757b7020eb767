"""Clean up a label map after the network, as the model's configuration says.

`postprocess()` applies a configuration: the conditional random field in `crf`, then rules.
`apply_rules()` applies a list of rules; `check_rules()` tells beforehand whether they fit a label
set.
"""

from pipeline.postprocessing.apply import (
    NO_FIELD,
    NOT_APPLIED,
    Evidence,
    allow_labels,
    change_shares,
    postprocess,
)
from pipeline.postprocessing.config import EACH_LABEL, PostprocessingConfig, Rule, check_rules
from pipeline.postprocessing.crf import num_slots
from pipeline.postprocessing.rules import Cleaned, apply_rules

__all__ = [
    "EACH_LABEL",
    "NOT_APPLIED",
    "NO_FIELD",
    "Cleaned",
    "Evidence",
    "PostprocessingConfig",
    "Rule",
    "allow_labels",
    "apply_rules",
    "change_shares",
    "check_rules",
    "num_slots",
    "postprocess",
]
