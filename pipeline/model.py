"""A trained model as a folder: weights, and everything that using them needs.

    model/configs/metadata.json     what MONAI bundles say of a network, and Trivox's description
    model/models/model.safetensors  the weights; loading them cannot execute code

The layout and the metadata are those of a MONAI Bundle; only the weights, which a bundle keeps as a
pickle, are safetensors.

Source:
    MONAI Bundle Specification, https://docs.monai.io/en/stable/mb_specification.html.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import monai
import numpy as np
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, PositiveInt, model_validator

from pipeline import __version__
from pipeline.errors import ModelError
from pipeline.files import atomic_path, sha256_of, write_text
from pipeline.inference import InferenceConfig
from pipeline.network import NetworkConfig, build_network
from pipeline.postprocessing import PostprocessingConfig, check_rules
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
    labels: Mapping[str, PositiveInt]
    study: StudyConfig
    preprocessing: Preprocessing
    network: NetworkConfig
    inference: InferenceConfig
    postprocessing: PostprocessingConfig
    fingerprint: Fingerprint
    training: Mapping[str, Any]

    @model_validator(mode="after")
    def _parts_fit(self) -> "ModelDescription":
        if len(self.preprocessing.channels) != len(self.channels):
            raise ValueError(
                f"{len(self.channels)} channels, preprocessing {len(self.preprocessing.channels)}"
            )
        if len(set(self.labels.values())) < len(self.labels):
            raise ValueError(f"two labels have the same value: {dict(self.labels)}")
        check_rules(self.labels, self.postprocessing)
        if self.inference.window is not None:
            self.network.check_size("inference.window", self.inference.window)
        return self

    @property
    def label_values(self) -> list[int]:
        """Label value of each class index of the network: background 0 first, then by value."""
        return [0, *sorted(self.labels.values())]


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


def save_model(model: Model, folder: Path) -> None:
    """Write a model folder, or replace the model in it.

    The metadata goes first and comes last, since without it a folder is no model: a killed run
    leaves no description beside the weights of another model.
    """
    (folder / METADATA).unlink(missing_ok=True)
    weights = {name: weight.detach().contiguous() for name, weight in _weights(model.network)}
    with atomic_path(folder / WEIGHTS) as temporary:
        safetensors.torch.save_file(weights, temporary)
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
    _load_weights(network, folder / WEIGHTS)
    network.to(device).eval()
    return Model(description, network, sha256_of(folder / METADATA, folder / WEIGHTS))


def _weights(network: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield each parameter and buffer once, though a U-Net may reach its blocks by two ways."""
    yield from network.named_parameters()
    yield from network.named_buffers()


def _load_weights(network: torch.nn.Module, path: Path) -> None:
    try:
        weights = safetensors.torch.load_file(path)
        if weights.keys() != dict(_weights(network)).keys():
            raise RuntimeError("other names")
        # Not strict, since a weight's second name is not in the file.
        network.load_state_dict(weights, strict=False)
    except FileNotFoundError as error:
        remedy = "Copy the whole model folder, or train again."
        raise ModelError(path, "the weights are missing", remedy) from error
    except (safetensors.SafetensorError, RuntimeError, OSError) as error:
        found = f"the weights cannot be read or do not fit the network ({type(error).__name__})"
        raise ModelError(path, found, "Copy the folder anew, or train again.") from error


def _read_description(folder: Path) -> ModelDescription:
    path = folder / METADATA
    if not path.is_file():
        remedy = "Give the folder `model` of a finished run, for example runs/phantom_ct/model."
        raise ModelError(folder, "no model here (configs/metadata.json is missing)", remedy)
    try:
        return ModelDescription.model_validate(json.loads(path.read_text("utf-8"))["trivox"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        found = f"the description cannot be read ({type(error).__name__})"
        remedy = f"Use a model written by Trivox {__version__} or a compatible version."
        raise ModelError(path, found, remedy) from error


def _metadata(description: ModelDescription) -> dict[str, Any]:
    name_of = {value: name for name, value in description.labels.items()} | {0: "background"}
    # Any size that the levels can halve; MONAI's notation.
    spatial_shape = [f"{description.network.divisor}*{axis}" for axis in "ijk"]
    return {
        "version": __version__,
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__,
        "numpy_version": np.__version__,
        "required_packages_version": {"safetensors": safetensors.__version__},
        "task": f"Segmentation: {', '.join(description.labels)}",
        "description": f"3D U-Net trained by Trivox on {description.fingerprint.num_cases} cases",
        "authors": "not stated",
        "copyright": "not stated",
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "magnitude",
                    "modality": ", ".join(channel.modality for channel in description.channels),
                    "num_channels": len(description.channels),
                    "spatial_shape": spatial_shape,
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": True,
                    "channel_def": {
                        str(index): channel.name
                        for index, channel in enumerate(description.channels)
                    },
                }
            },
            "outputs": {
                "pred": {
                    "type": "image",
                    "format": "labels",
                    "num_channels": len(description.label_values),
                    "spatial_shape": spatial_shape,
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": True,
                    "channel_def": {
                        str(index): name_of[value]
                        for index, value in enumerate(description.label_values)
                    },
                }
            },
        },
        "trivox": description.model_dump(mode="json"),
    }
