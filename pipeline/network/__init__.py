"""Networks by name and shape: the U-Net and its relatives."""

from pipeline.network.build import build_network
from pipeline.network.config import OPTIONS, PRESETS, NetworkConfig
from pipeline.network.cost import count_parameters, gflops

__all__ = [
    "OPTIONS",
    "PRESETS",
    "NetworkConfig",
    "build_network",
    "count_parameters",
    "gflops",
]
