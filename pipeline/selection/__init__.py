"""Post-processing is chosen on cases that the model never saw, or left off.

`search_postprocessing()` makes the choice and stores it in the model with its evidence;
`read_decision()` reads it back, `describe_decision()` and `describe_model()` show it.
"""

from pipeline.selection.evidence import Decision, read_decision
from pipeline.selection.present import describe_decision, describe_model
from pipeline.selection.search import search_postprocessing

__all__ = [
    "Decision",
    "describe_decision",
    "describe_model",
    "read_decision",
    "search_postprocessing",
]
