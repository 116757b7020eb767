"""A model that takes no time."""

import torch

from pipeline.model import Model, ModelDescription
from pipeline.network import build_network

DESCRIPTION = {
    "name": "test",
    "channels": [{"name": "T1", "modality": "MR"}],
    "labels": {"organ": 1},
    "study": {},
    "preprocessing": {"spacing_mm": [1, 1, 1], "crop_margin_mm": 0, "channels": [{"kind": "mr"}]},
    "network": {"features": [2, 4, 4]},
    "inference": {"window": [8, 8, 8], "precision": "fp32"},
    "postprocessing": {},
    "fingerprint": {
        "num_cases": 1,
        "spacing_mm": [1, 1, 1],
        "spacing_range_mm": [[1, 1, 1], [1, 1, 1]],
        "shape": [9, 9, 9],
        "channels": [],
    },
    "training": {},
}


def describe(**changes):
    return ModelDescription.model_validate(DESCRIPTION | changes)


def tiny_model(seed=0, **changes):
    """Return a model of random weights, described as above but for the changes."""
    description = describe(**changes)
    torch.manual_seed(seed)
    num_inputs, num_outputs = len(description.channels), description.num_outputs
    return Model(description, (build_network(description.network, num_inputs, num_outputs).eval(),))
