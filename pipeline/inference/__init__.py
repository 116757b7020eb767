"""From a normalised volume to class probabilities on the same grid."""

from pipeline.inference.precision import Precision, autocast_type, choose_device
from pipeline.inference.sliding_window import InferenceConfig, predict

__all__ = ["InferenceConfig", "Precision", "autocast_type", "choose_device", "predict"]
