"""Networks by name and shape: the U-Net and its relatives."""

from pipeline.network.build import build_network, count_parameters, gflops
from pipeline.network.config import OPTIONS, PRESETS, NetworkConfig

__all__ = [
    "OPTIONS",
    "PRESETS",
    "NetworkConfig",
    "build_network",
    "count_parameters",
    "gflops",
]
