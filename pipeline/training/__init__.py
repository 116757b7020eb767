"""From a configuration to a model: an ignite loop over patches, validated on whole studies."""

from pipeline.training.config import DataConfig, RunConfig, TrainingConfig
from pipeline.training.folder import RunFolder
from pipeline.training.run import RunResult, train

__all__ = [
    "DataConfig",
    "RunConfig",
    "RunFolder",
    "RunResult",
    "TrainingConfig",
    "train",
]
