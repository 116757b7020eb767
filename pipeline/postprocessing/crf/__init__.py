"""A fully connected conditional random field that moves boundaries to where the image has them."""

from pipeline.postprocessing.crf.config import CrfConfig, Normalisation, num_slots
from pipeline.postprocessing.crf.refine import BAND_MM, Crf

__all__ = ["BAND_MM", "Crf", "CrfConfig", "Normalisation", "num_slots"]
