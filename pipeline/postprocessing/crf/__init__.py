"""A fully connected conditional random field that moves boundaries to where the image has them."""

from pipeline.postprocessing.crf.config import CrfConfig, Normalisation, num_slots
from pipeline.postprocessing.crf.hard import BAND_MM
from pipeline.postprocessing.crf.refine import Crf

__all__ = ["BAND_MM", "Crf", "CrfConfig", "Normalisation", "num_slots"]
