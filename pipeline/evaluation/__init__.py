"""Compare predicted with reference label maps: overlap, surfaces, volumes, and means over cases.

`score_case()` compares one pair, `evaluate_folders()` two folders; `summarise()` averages, and
`write_scores()` and `format_table()` present. The rules for empty masks are in `aggregate.py`.
"""

from pipeline.evaluation.aggregate import (
    MEAN_OVER_LABELS,
    EvaluationConfig,
    LabelScores,
    Summary,
    mask_of,
    score_case,
    scored_structures,
    summarise,
    values_by_name,
    without_ignored,
)
from pipeline.evaluation.folders import FolderScores, Problem, evaluate_folders
from pipeline.evaluation.rules import MaskRecord, ScoringRules
from pipeline.evaluation.table import format_table, read_scores, write_scores

__all__ = [
    "MEAN_OVER_LABELS",
    "EvaluationConfig",
    "FolderScores",
    "LabelScores",
    "MaskRecord",
    "Problem",
    "ScoringRules",
    "Summary",
    "evaluate_folders",
    "format_table",
    "mask_of",
    "read_scores",
    "score_case",
    "scored_structures",
    "summarise",
    "values_by_name",
    "without_ignored",
    "write_scores",
]
