"""Post-processing is chosen on cases that the model never saw, or left off.

`search_postprocessing()` makes the choice and stores it in the model with its evidence;
`read_decision()` reads it back, `decision_in_effect()` if the model goes by it;
`describe_decision()`, `summarise_decision()` and `describe_model()` show it.
"""

from pipeline.selection.evidence import Decision, decision_in_effect, read_decision
from pipeline.selection.present import (
    describe_decision,
    describe_model,
    summarise_decision,
)
from pipeline.selection.search import search_postprocessing

__all__ = [
    "Decision",
    "decision_in_effect",
    "describe_decision",
    "describe_model",
    "read_decision",
    "search_postprocessing",
    "summarise_decision",
]
