"""A trained model as a folder: weights, and everything that using them needs.

    model/configs/metadata.json     what MONAI bundles say of a network, and Trivox's description
    model/models/model.safetensors  the weights; loading them cannot execute code

The layout is that of a MONAI Bundle (https://docs.monai.io/en/stable/mb_specification.html).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import monai
import numpy as np
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from pipeline import __version__
from pipeline.errors import ModelError
from pipeline.files import atomic_path, sha256_of, write_text
from pipeline.inference import InferenceConfig
from pipeline.network import NetworkConfig, build_network
from pipeline.postprocessing import PostprocessingConfig
from pipeline.study import StudyConfig
from pipeline.transforms import Fingerprint, Preprocessing

METADATA = Path("configs", "metadata.json")
WEIGHTS = Path("models", "model.safetensors")


class ChannelDescription(BaseModel):
    """An input channel: its name and modality."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    modality: Literal["CT", "MR", "other"]


class ModelDescription(BaseModel):
    """What a model is for and how to use it; everything but the weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    channels: tuple[ChannelDescription, ...]
    labels: Mapping[str, int]
    study: StudyConfig
    preprocessing: Preprocessing
    network: NetworkConfig
    inference: InferenceConfig
    postprocessing: PostprocessingConfig
    fingerprint: Fingerprint
    training: Mapping[str, Any]

    @model_validator(mode="after")
    def _window_fits(self) -> "ModelDescription":
        if self.inference.window is not None:
            self.network.check_size("inference.window", self.inference.window)
        return self

    @property
    def label_values(self) -> list[int]:
        """Label value of each class index of the network, background 0 first."""
        return label_values(self.labels)


@dataclass(frozen=True)
class Model:
    """A model ready for use.

    Attributes:
        description: How to use it.
        network: On its device, in evaluation mode.
        sha256: Of the description and the weights on disk; empty while training.
    """

    description: ModelDescription
    network: torch.nn.Module
    sha256: str = ""


def label_values(labels: Mapping[str, int]) -> list[int]:
    """Return the label value of each class index: background 0 first, then by value."""
    return [0, *sorted(labels.values())]


def save_model(model: Model, folder: Path) -> None:
    """Write a model folder. The metadata goes last: without it a folder is no model."""
    with atomic_path(folder / WEIGHTS) as temporary:
        safetensors.torch.save_model(model.network, str(temporary))
    write_text(folder / METADATA, json.dumps(_metadata(model.description), indent=2))


def load_model(folder: Path, device: torch.device) -> Model:
    """Read a model folder.

    Raises:
        ModelError: If the folder is no model, is torn, or does not fit this version.
    """
    description = _read_description(folder)
    network = build_network(
        description.network, len(description.channels), len(description.label_values)
    )
    try:
        safetensors.torch.load_model(network, folder / WEIGHTS)
    except FileNotFoundError as error:
        remedy = "Copy the whole model folder, or train again."
        raise ModelError(folder / WEIGHTS, "the weights are missing", remedy) from error
    except (safetensors.SafetensorError, RuntimeError, OSError) as error:
        found = f"the weights cannot be read or do not fit the network ({type(error).__name__})"
        raise ModelError(
            folder / WEIGHTS, found, "Copy the folder anew, or train again."
        ) from error
    network.to(device).eval()
    return Model(description, network, sha256_of(folder / METADATA, folder / WEIGHTS))


def _read_description(folder: Path) -> ModelDescription:
    path = folder / METADATA
    if not path.is_file():
        remedy = "Give the folder `model` of a finished run, for example runs/phantom_ct/model."
        raise ModelError(folder, "no model here (configs/metadata.json is missing)", remedy)
    try:
        return ModelDescription.model_validate(json.loads(path.read_text("utf-8"))["trivox"])
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        found = f"the description cannot be read ({type(error).__name__})"
        remedy = f"Use a model written by Trivox {__version__} or a compatible version."
        raise ModelError(path, found, remedy) from error


def _metadata(description: ModelDescription) -> dict[str, Any]:
    labels = {"0": "background"} | {str(value): name for name, value in description.labels.items()}
    return {
        "version": __version__,
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__,
        "numpy_version": np.__version__,
        "task": f"Segmentation: {', '.join(description.labels)}",
        "description": f"3D U-Net trained by Trivox on {description.fingerprint.num_cases} cases",
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "magnitude",
                    "modality": ", ".join(channel.modality for channel in description.channels),
                    "num_channels": len(description.channels),
                    "spatial_shape": list(description.inference.window or ()),
                    "dtype": "float32",
                    "channel_def": {
                        str(index): channel.name
                        for index, channel in enumerate(description.channels)
                    },
                }
            },
            "outputs": {
                "pred": {
                    "type": "image",
                    "format": "segmentation",
                    "num_channels": len(description.label_values),
                    "dtype": "float32",
                    "channel_def": labels,
                }
            },
        },
        "trivox": description.model_dump(mode="json"),
    }
