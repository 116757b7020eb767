"""The whole way of a study to its mask, top to bottom.

The command line, the cohort runner and the validation during training all take this path.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pipeline.inference import predict
from pipeline.model import Model
from pipeline.postprocessing import postprocess
from pipeline.progress import timed
from pipeline.study import Study
from pipeline.transforms import ProbabilitySink, preprocess, restore_labels


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
        sink: Takes the class probabilities on the study's own grid, if given.

    Raises:
        StudyError: If the study cannot be brought to the network's grid.
    """
    description = model.description
    seconds: dict[str, float] = {}
    with timed(seconds, "preprocess"):
        working = preprocess(study.volume, description.preprocessing)
    with timed(seconds, "network"):
        probabilities = predict(working.data_CIJK, model.network, description.inference, device)
    with timed(seconds, "restore"):
        values = description.label_values
        labels_IJK = restore_labels(probabilities, working.placement, values, sink)
    with timed(seconds, "postprocess"):
        labels_IJK = postprocess(
            labels_IJK, study.volume.grid, description.labels, description.postprocessing
        )
    return Segmentation(labels_IJK, seconds, study.warnings)
