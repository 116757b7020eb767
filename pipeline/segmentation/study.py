"""A study on its way to its mask: before the network and after it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch

from pipeline.study import GeometryHeader
from pipeline.study.findings import Finding
from pipeline.transforms import Uncertain, Working
from pipeline.volume import Grid, Volume

STAGES = (
    "load",
    "admission",
    "preprocess",
    "network",
    "stitch",
    "resample",
    "postprocess",
    "write",
)
"""What the time of a study is made of, in this order."""

BYTES_PER_GB = 10**9


@dataclass(frozen=True)
class PreparedStudy:
    """A study on the network's grid, and what its outputs must repeat.

    Attributes:
        case: Its name.
        grid: Its own, and `header` its geometry fields, for its outputs.
        working: What the network sees.
        warnings: What was odd but acceptable.
        volume: Its own voxels, if they are still needed; else their memory is free.
        seconds: Time of each stage so far.
    """

    case: str
    grid: Grid
    header: GeometryHeader
    working: Working
    warnings: tuple[str, ...]
    volume: Volume | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)

    def without_data(self) -> "PreparedStudy":
        """Return the same without what the network saw, so that its memory is free."""
        return replace(self, working=replace(self.working, data_CIJK=torch.empty(0)))


@dataclass(frozen=True)
class Prediction:
    """What the networks say of a study, before it is cleaned.

    Attributes:
        labels_IJK: `(I, J, K)` label values in the voxel order of the study's file.
        uncertain: Voxels whose label is not clear, if something needs them.
        seconds: Time of each stage so far.
        predicted_gb: Peak of the process that was expected.
        measured_gb: The same as it was.
        arithmetic: Of the network, and what its sums were stored in.
    """

    labels_IJK: npt.NDArray[np.unsignedinteger]
    uncertain: Uncertain | None
    seconds: Mapping[str, float]
    predicted_gb: float
    measured_gb: float
    arithmetic: str


@dataclass(frozen=True)
class Segmentation:
    """A study's labels on its own grid.

    Attributes:
        labels_IJK: `(I, J, K)` label values in the voxel order of the study's file.
        seconds: Time of each stage.
        warnings: What the user should know before trusting the mask.
        memory_gb: Peak of the process while the network ran, as `predicted` and as `measured`.
        uncertain: Voxels whose label is not clear, if they were asked for.
        arithmetic: Of the network, and what its sums were stored in.
        admission: How the study differs from the training cases, where that was looked at.
    """

    labels_IJK: npt.NDArray[np.unsignedinteger]
    seconds: Mapping[str, float]
    warnings: tuple[str, ...]
    memory_gb: Mapping[str, float] = field(default_factory=dict)
    uncertain: Uncertain | None = None
    arithmetic: str = ""
    admission: tuple[Finding, ...] = ()
