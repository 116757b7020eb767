"""Trivox: segment CT and MRI volumes with a 3D U-Net, and trust the masks."""

__version__ = "0.1.0"
