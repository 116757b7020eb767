"""The whole way of a study to its mask, top to bottom.

The command line, the cohort runner and the validation during training all take this path.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pipeline.errors import StudyError
from pipeline.inference import predict
from pipeline.main_memory import available_bytes
from pipeline.model import Model
from pipeline.postprocessing import postprocess
from pipeline.progress import timed
from pipeline.study import Study
from pipeline.transforms import (
    MAX_WORKING_VOXELS,
    ProbabilitySink,
    preprocess,
    restore_labels,
    restore_regions,
)

NOTHING_FOUND = "no voxel was labelled; check modality, spacing and field of view of the study"


@dataclass(frozen=True)
class Segmentation:
    """A study's labels on its own grid.

    Attributes:
        labels_IJK: `(I, J, K)` label values in the voxel order of the study's file.
        seconds: Time of each stage.
        warnings: What the user should know before trusting the mask.
    """

    labels_IJK: npt.NDArray[np.unsignedinteger]
    seconds: Mapping[str, float]
    warnings: tuple[str, ...]


def segment_study(
    study: Study, model: Model, device: torch.device, sink: ProbabilitySink | None = None
) -> Segmentation:
    """Segment one study.

    Args:
        study: From `read_study`.
        model: With its network on `device`.
        device: To compute on.
        sink: Takes the probabilities of each class or region on the study's own grid, if given.

    Raises:
        StudyError: If the study would not fit in memory on the network's grid.
    """
    description = model.description
    seconds: dict[str, float] = {}
    with timed(seconds, "preprocess"):
        max_voxels = _max_working_voxels(len(description.channels), description.num_outputs)
        try:
            working = preprocess(study.volume, description.preprocessing, max_voxels=max_voxels)
        except StudyError as error:
            raise StudyError(study.case, error.found, error.remedy) from error
    with timed(seconds, "network"):
        probabilities = predict(
            working.data_CIJK,
            model.networks,
            description.inference,
            device,
            description.mirror_axes,
            description.activation,
        )
    with timed(seconds, "restore"):
        if description.regions:
            written = [description.labels[region.writes] for region in description.regions]
            labels_IJK = restore_regions(probabilities, working.placement, written, sink)
        else:
            values = description.label_values
            labels_IJK = restore_labels(probabilities, working.placement, values, sink)
    with timed(seconds, "postprocess"):
        labels_IJK = postprocess(
            labels_IJK, study.volume.grid, description.labels, description.postprocessing
        )
    warnings = study.warnings if labels_IJK.any() else (*study.warnings, NOTHING_FOUND)
    return Segmentation(labels_IJK, seconds, warnings)


def _max_working_voxels(num_channels: int, num_outputs: int) -> int:
    """Return how large a working volume may be in the memory that is free now.

    The input and its normalised copy are held for each channel; blended logits, their sum of
    weights and the probabilities for each output.
    """
    bytes_per_voxel = 4 * (2 * num_channels + 3 * num_outputs)
    return min(MAX_WORKING_VOXELS, available_bytes() // bytes_per_voxel)
