"""From a normalised volume to probabilities on the same grid, by one network or several."""

from pipeline.inference.precision import Precision, autocast_type, choose_device
from pipeline.inference.sliding_window import Activation, FlipAxis, InferenceConfig, predict

__all__ = [
    "Activation",
    "FlipAxis",
    "InferenceConfig",
    "Precision",
    "autocast_type",
    "choose_device",
    "predict",
]
