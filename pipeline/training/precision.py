"""How many labels a faster precision changes, on cases that the model never saw."""

import logging
import time
from collections.abc import Sequence

import numpy as np
import torch

from pipeline.inference import Precision, native_precision
from pipeline.manifest import Case
from pipeline.model import Model
from pipeline.segmentation import Segmenter, segment_study
from pipeline.training.data import read_case

logger = logging.getLogger(__name__)

MAX_CASES = 10
MAX_SECONDS = 120.0
"""After which no further case is begun: float32 can take minutes a case."""


def measure_label_change(
    cases: Sequence[Case], model: Model, device: torch.device
) -> dict[Precision, float]:
    """Compare the device's native precision with float32, over whole segmented studies.

    Args:
        cases: That training did not learn from; the first few are taken.
        model: With its networks on `device`.
        device: To compute on.

    Returns:
        The share of foreground voxels, of either mask, whose labels differ, by precision; empty if
        float32 is native, or there is nothing to compare on.
    """
    native = native_precision(device)
    if native == "fp32" or not cases:
        return {}
    exact, fast = (Segmenter(_with(model, precision), device) for precision in ("fp32", native))
    num_changed = num_foreground = 0
    started = time.monotonic()
    for case in cases[:MAX_CASES]:
        if time.monotonic() - started > MAX_SECONDS:
            break
        description = model.description
        study, _ = read_case(case, len(description.channels), description.study)
        one, other = (segment_study(study, each).labels_IJK for each in (exact, fast))
        num_changed += int(np.count_nonzero(one != other))
        num_foreground += int(np.count_nonzero(one.astype(bool) | other.astype(bool)))
    if not num_foreground:
        return {}
    change = num_changed / num_foreground
    logger.info("%s changes %.3f %% of foreground labels against fp32", native, 100 * change)
    return {native: change}


def _with(model: Model, precision: Precision) -> Model:
    inference = model.description.inference.model_copy(update={"precision": precision})
    description = model.description.model_copy(update={"inference": inference})
    return Model(description, model.networks)
