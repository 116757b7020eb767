"""Train through a conditional random field: where that can be done, and what is kept of it.

The network that is kept computes as ever. What the field has learnt stands in the model's
description under `training.crf`, as parameters to refine masks with after the network.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.errors import ConfigError
from pipeline.manifest import Manifest
from pipeline.model import ModelDescription
from pipeline.postprocessing.crf import CrfConfig
from pipeline.postprocessing.crf.layer import CrfLayer

MAX_CHANNELS = 2
"""More channels, each an axis of about thirty cells, would take gigabytes and minutes a step."""

LEARNED = "crf"
"""Key of what was learnt, among a description's facts about the training."""


def check_crf(config: CrfConfig | None, manifest: Manifest) -> None:
    """Make sure that a data set can be trained on through a conditional random field.

    Raises:
        ConfigError: If it cannot.
    """
    if config is None:
        return
    if manifest.regions:
        found = "overlapping regions have no classes that exclude each other, which the field needs"
        raise ConfigError("training.crf", found, "Leave it out.")
    num_channels = len(manifest.channels)
    if config.weight_appearance and num_channels > MAX_CHANNELS:
        found = f"{num_channels} channels are more than the {MAX_CHANNELS} that it can look at"
        remedy = "Leave it out, or set training.crf.weight_appearance=0."
        raise ConfigError("training.crf", found, remedy)
    try:
        config.check_classes(1 + len(manifest.labels))
    except ValueError as error:
        remedy = "Give a row and a column for background and each label."
        raise ConfigError("training.crf", str(error), remedy) from error


def build_crf(config: CrfConfig | None, description: ModelDescription) -> CrfLayer | None:
    """Make the layer that a configuration asks for, for patches of a model's working grid."""
    if config is None:
        return None
    return CrfLayer(config, description.num_outputs, description.preprocessing.spacing_mm)


def with_learned(description: ModelDescription, crf: CrfLayer | None) -> ModelDescription:
    """Return the description with what the layer has learnt, if there is one."""
    if crf is None:
        return description
    learned = crf.learned_config().model_dump(mode="json")
    return description.model_copy(update={"training": {**description.training, LEARNED: learned}})


def mean_learned(members: Sequence[ModelDescription]) -> dict[str, Any]:
    """Return what the members of a model learnt, averaged; nothing if they learnt nothing."""
    if any(LEARNED not in member.training for member in members):
        return {}
    first, *_ = configs = [CrfConfig.model_validate(member.training[LEARNED]) for member in members]
    update: dict[str, Any] = {
        name: float(np.mean([getattr(config, name) for config in configs]))
        for name in ("weight_appearance", "weight_smoothness")
    }
    if first.compatibility is not None:
        cost_CC = np.mean([np.asarray(config.compatibility) for config in configs], axis=0)
        update["compatibility"] = tuple(map(tuple, cost_CC.tolist()))
    return {LEARNED: first.model_copy(update=update).model_dump(mode="json")}
