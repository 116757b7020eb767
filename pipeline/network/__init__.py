"""Networks by name and shape. Today one family: the 3D U-Net."""

from pipeline.network.unet import NetworkConfig, build_network

__all__ = ["NetworkConfig", "build_network"]
