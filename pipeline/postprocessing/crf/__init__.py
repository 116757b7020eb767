"""A fully connected conditional random field that moves boundaries to where the image has them."""

from pipeline.postprocessing.crf.config import CrfConfig, Normalisation

__all__ = ["CrfConfig", "Normalisation"]
