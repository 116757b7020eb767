"""What all studies of a call share."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from pipeline.cohort.options import SegmentOptions
from pipeline.dicom_out import Algorithm
from pipeline.model import Model
from pipeline.segmentation import Segmenter


def _tell_nobody() -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Job:
    """A model that is ready to segment studies into a folder.

    Attributes:
        model: That segments them.
        segmenter: The model, ready on a device.
        out: The output folder.
        options: What to write, and what that may take.
        algorithm: What DICOM outputs say of the model, if there are any.
        alive: Called between steps that can take long, by any thread: to tell them from a hang.
    """

    model: Model
    segmenter: Segmenter
    out: Path
    options: SegmentOptions
    algorithm: Algorithm | None = None
    alive: Callable[[], None] = _tell_nobody

    @classmethod
    def of(cls, model: Model, device: torch.device, out: Path, options: SegmentOptions) -> Self:
        """Return a job for a model, made ready on a device."""
        segmenter = Segmenter(model, device, options.max_bytes)
        algorithm = None if options.dicom is None else Algorithm.of(model)
        return cls(model, segmenter, out, options, algorithm)
