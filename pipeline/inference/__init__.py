"""From a normalised volume to probabilities on the same grid, by one network or several."""

from pipeline.inference.budget import MemoryBudget
from pipeline.inference.config import (
    Activation,
    FlipAxis,
    InferenceConfig,
    Precision,
    WindowSize,
    autocast_type,
    native_precision,
    proven_precision,
)
from pipeline.inference.device import (
    check_device_name,
    choose_device,
    choose_kind,
    failure_of,
    short_of_memory,
    split_devices,
)
from pipeline.inference.known_gpus import KnownGpu, find_gpu, known_gpus
from pipeline.inference.memory import (
    CellStorage,
    LiveBytes,
    NotEnoughMemory,
    is_out_of_memory,
    least_bytes,
)
from pipeline.inference.predictor import Predictor, Stream

__all__ = [
    "Activation",
    "CellStorage",
    "FlipAxis",
    "InferenceConfig",
    "KnownGpu",
    "LiveBytes",
    "MemoryBudget",
    "NotEnoughMemory",
    "Precision",
    "Predictor",
    "Stream",
    "WindowSize",
    "autocast_type",
    "check_device_name",
    "choose_device",
    "choose_kind",
    "failure_of",
    "find_gpu",
    "is_out_of_memory",
    "known_gpus",
    "least_bytes",
    "native_precision",
    "proven_precision",
    "short_of_memory",
    "split_devices",
]
