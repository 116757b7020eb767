"""Trained models for use without Trivox: as a MONAI Bundle, or as ONNX with a declared spec.

`export_model()` writes either. `scripts` is what a bundle carries along.
"""

from pipeline.export.export import FORMATS, export_model

__all__ = ["FORMATS", "export_model"]
