"""From a configuration to a model: an ignite loop over patches, validated on whole studies."""

from pipeline.training.config import ALIASES, DataConfig, RunConfig, TrainingConfig
from pipeline.training.cross_validation import cross_validate
from pipeline.training.folder import RunFolder
from pipeline.training.run import RunResult, train

__all__ = [
    "ALIASES",
    "DataConfig",
    "RunConfig",
    "RunFolder",
    "RunResult",
    "TrainingConfig",
    "cross_validate",
    "train",
]
