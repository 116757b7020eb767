"""What a model is for and how to use it: everything but its weights.

MONAI runs what begins with `$`, replaces what begins with `@` or `%` by something else, and makes
an object of what has the key `_target_`. So a name that it would not leave as it is becomes an
expression of ours, a string literal, which gives the name; and a mapping with such names for keys
becomes a list of pairs.

Source:
    https://docs.monai.io/en/stable/config_syntax.html.

Whoever holds an image can ask whether a model was trained on it; nobody can read from a model what
its cases are, or compare it with lists of hashes from elsewhere.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import safetensors
import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from pipeline import __version__
from pipeline.errors import ConfigError, ModelError
from pipeline.evaluation import ScoringRules
from pipeline.fingerprint import Fingerprint
from pipeline.gate import AdmissionConfig
from pipeline.inference import (
    Activation,
    FlipAxis,
    InferenceConfig,
    Precision,
    WindowSize,
    proven_precision,
)
from pipeline.manifest import Region, SegmentCode
from pipeline.manifest.faults import first_fault
from pipeline.network import NetworkConfig
from pipeline.postprocessing import PostprocessingConfig, check_rules
from pipeline.study import StudyConfig
from pipeline.system.documents import read_json
from pipeline.system.spelling import is_name
from pipeline.system.text import cut
from pipeline.transforms import Preprocessing
from pipeline.volume import LARGEST_LABEL

_VALUE = re.compile(r"[$@%]|.*(#|[@%]::)", re.DOTALL)
_KEY = re.compile(r"[$@%+~]|_.*_$|.*(#|::)", re.DOTALL)
_RUN = re.compile(r"[$@%]|_.*_$", re.DOTALL)
_PLAIN = re.compile(r"[A-Za-z0-9 _.,;/()=-]")


def plain(value: Any) -> Any:  # noqa: ANN401
    """Return JSON content that MONAI resolves to what it says, and that runs nothing of it."""
    match value:
        case str():
            return _literal(value) if _VALUE.match(value) else value
        case Mapping():
            if any(_KEY.match(str(key)) for key in value):
                return [[plain(key), plain(each)] for key, each in value.items()]
            return {key: plain(each) for key, each in value.items()}
        case list() | tuple():
            return [plain(each) for each in value]
    return value


def first_run(content: Any, where: str = "") -> str | None:  # noqa: ANN401
    """Return where the first text stands that MONAI would take for something else; None if nowhere.

    Text that it would only spell otherwise is passed over.
    """
    return next(_places(content, where), None)


def _places(content: Any, where: str) -> Iterator[str]:  # noqa: ANN401
    match content:
        case str():
            if content.startswith(("$", "@", "%")):
                yield where
        case Mapping():
            for key, each in content.items():
                place = f"{where}.{key}" if where else str(key)
                if _RUN.match(str(key)):
                    yield place
                yield from _places(each, place)
        case list() | tuple():
            for index, each in enumerate(content):
                yield from _places(each, f"{where}[{index}]")


def _literal(text: str) -> str:
    """Return an expression that is a string, without any character that means something."""
    spelled = (char if _PLAIN.match(char) else _escape(ord(char)) for char in text)
    return f"$'{''.join(spelled)}'"


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\U{code:08x}"


class TrainingCases(BaseModel):
    """The cases of one training.

    Attributes:
        salt: Put before the content of each case; it follows from all of them, so that the same
            training gives the same model.
        hashes: Of each case, sorted; none where the cases are not known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    salt: str
    hashes: tuple[str, ...]

    @classmethod
    def of(cls, contents: Iterable[str]) -> "TrainingCases":
        """Keep what tells the cases with these contents, each a hash of voxels."""
        ordered = sorted(set(contents))
        salt = hashlib.sha256("\n".join(ordered).encode()).hexdigest()[:32]
        return cls(salt=salt, hashes=tuple(sorted(_salted(salt, each) for each in ordered)))

    def holds(self, content: str) -> bool:
        """Tell whether a case with this content is among them."""
        return _salted(self.salt, content) in self.hashes


UNKNOWN = TrainingCases(salt="", hashes=())
"""Stands for the cases of a training of which nothing was kept."""


def _salted(salt: str, content: str) -> str:
    return hashlib.sha256(f"{salt}:{content}".encode()).hexdigest()[:32]


MAX_MEMBERS = 1000
"""Far more than anybody averages; a description that says more is no model's."""


class ChannelDescription(BaseModel):
    """An input channel: its name and modality."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    modality: Literal["CT", "MR", "other"]


class ModelDescription(BaseModel):
    """What a model is for and how to use it; the same for all its members.

    Attributes:
        labels: Name and value of each structure in the masks.
        codes: What labels stand for in the codes of a terminology, of those that have one.
        regions: What the outputs mean where labels overlap; empty where they exclude each other.
        patch_size: That the network was trained with, along I, J, K. Networks that learn the places
            of a patch are built for it. None in models older than this field.
        mirror_axes: Along which the training patches were flipped, and so studies may be.
        num_members: Networks whose outputs are averaged.
        label_change: Share of the foreground labels of validation cases that each precision changed
            against float32, where it was measured.
        admission: How studies are compared with the fingerprint before they are segmented.
        scoring: How its masks were scored on validation cases: what their references ignore, and
            tolerances. None in models older than this field.
        training: Where the model comes from, for people to read.
        training_cases: Hashes of its training cases, and of those of the models that it was started
            from; empty in models of earlier versions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    channels: tuple[ChannelDescription, ...]
    labels: Mapping[str, Annotated[PositiveInt, Field(le=LARGEST_LABEL)]]
    codes: Mapping[str, SegmentCode] = {}
    regions: tuple[Region, ...] = ()
    study: StudyConfig
    preprocessing: Preprocessing
    network: NetworkConfig
    patch_size: tuple[WindowSize, WindowSize, WindowSize] | None = None
    mirror_axes: tuple[FlipAxis, ...] = ()
    num_members: int = Field(default=1, ge=1, le=MAX_MEMBERS)
    inference: InferenceConfig
    label_change: Mapping[Precision, float] = {}
    postprocessing: PostprocessingConfig
    fingerprint: Fingerprint
    admission: AdmissionConfig = AdmissionConfig()
    scoring: ScoringRules | None = None
    training: Mapping[str, Any]
    training_cases: tuple[TrainingCases, ...] = ()

    @model_validator(mode="after")
    def _parts_fit(self) -> "ModelDescription":
        if len(self.preprocessing.channels) != len(self.channels):
            raise ValueError(
                f"{len(self.channels)} channels, preprocessing {len(self.preprocessing.channels)}"
            )
        self._check_look()
        if len(set(self.labels.values())) < len(self.labels):
            raise ValueError(f"two labels have the same value: {dict(self.labels)}")
        if unknown := sorted(set(self.codes) - set(self.labels)):
            raise ValueError(f"codes of unknown labels: {', '.join(unknown)}")
        regions = (region.name for region in self.regions)
        channels = (channel.name for channel in self.channels)
        if any(not is_name(name) for name in (self.name, *channels, *self.labels, *regions)):
            raise ValueError("a name is empty, long or has control characters")
        check_rules(self.labels, self.postprocessing)
        if self.regions and self.postprocessing.crf is not None:
            raise ValueError("a conditional random field needs labels, not regions that overlap")
        if self.inference.window is not None:
            self.network.check_size("inference.window", self.inference.window)
        elif self.patch_size is not None:
            self.network.check_size("patch_size", self.patch_size)
        self.inference.check_mirror(self.mirror_axes)
        return self

    def _check_look(self) -> None:
        look = self.fingerprint.look
        if look is None:
            return
        pictures = () if look.template is None else (look.template.means,)
        for of_channels in (look.channels, *pictures):
            if len(of_channels) != len(self.channels):
                raise ValueError(f"{len(self.channels)} channels, fingerprint {len(of_channels)}")

    @property
    def label_values(self) -> list[int]:
        """Label value of each class index of the network: background 0 first, then by value."""
        return [0, *sorted(self.labels.values())]

    @property
    def output_names(self) -> list[str]:
        """What each output of the network stands for: the regions, or background and labels."""
        if self.regions:
            return [region.name for region in self.regions]
        return ["background", *sorted(self.labels, key=lambda name: self.labels[name])]

    @property
    def num_outputs(self) -> int:
        """Outputs of the network."""
        return len(self.output_names)

    def was_trained_on(self, content: str) -> bool:
        """Tell whether an image, by the hash of its voxels, is one of the known training cases."""
        return any(cases.holds(content) for cases in self.training_cases)

    def inference_on(self, device: torch.device) -> InferenceConfig:
        """Return how to compute windows on a device, with the precision settled.

        Raises:
            ModelError: If the model does not say the size of its windows.
        """
        precision = proven_precision(self.inference.precision, device, self.label_change)
        return self.inference.model_copy(update={"precision": precision, "window": self.window})

    @property
    def window(self) -> tuple[int, int, int]:
        """Size of the windows: as set, or else of the patches that it was trained with.

        Raises:
            ModelError: If the model does not say.
        """
        window = self.inference.window or self.patch_size
        if window is None:
            found = "the model does not say the size of its windows"
            remedy = "Give one, such as inference.window=[96,96,96]."
            raise ModelError(self.name, found, remedy)
        return window

    @property
    def activation(self) -> Activation:
        """What turns logits into probabilities: each region by itself, or labels against others."""
        return "sigmoid" if self.regions else "softmax"


def parse_description(path: Path) -> ModelDescription:
    """Read a file that holds a model's description under the key `trivox`.

    Raises:
        ModelError: If it holds none, or one that does not hold.
    """
    try:
        content = read_json(path, ModelError, "Copy the folder anew, or train again.")
    except ModelError as error:
        found = f"the description cannot be read: {error.found}".replace(": cannot be read", "")
        raise ModelError(error.where, found, error.remedy) from error
    if "trivox" not in content:
        is_bundle = "monai_version" in content
        found = f"this is {'a MONAI bundle' if is_bundle else 'something else'}, not a model of "
        found += "Trivox; weights of others cannot be taken over"
        raise ModelError(path, found, "Give the folder `model` of a finished run.")
    try:
        return ModelDescription.model_validate(content["trivox"])
    except ValidationError as error:
        cause: Exception = error
        fault = str(first_fault(error, ModelDescription, content["trivox"]))
    except ConfigError as error:
        cause, fault = error, cut(f"{error.where}: {error.found}")
    except (TypeError, ArithmeticError, RecursionError) as error:
        cause, fault = error, "a value is out of all bounds"
    remedy = f"Use a model written by Trivox {__version__} or a compatible version."
    raise ModelError(path, f"the description does not hold: {fault}", remedy) from cause


def metadata(description: ModelDescription) -> dict[str, Any]:
    """Return what a MONAI Bundle says of a network, with Trivox's description under `trivox`."""
    # Any size that the levels can divide; MONAI's notation.
    divisors = zip(description.network.divisors, "ijk", strict=True)
    spatial_shape = [f"{divisor}*{axis}" for divisor, axis in divisors]
    described = {
        "version": __version__,
        "monai_version": version("monai"),
        "pytorch_version": torch.__version__,
        "numpy_version": np.__version__,
        "required_packages_version": {"safetensors": safetensors.__version__},
        "task": f"Segmentation: {', '.join(description.labels)}",
        "description": _in_words(description),
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
                    "num_channels": description.num_outputs,
                    "spatial_shape": spatial_shape,
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": True,
                    "channel_def": dict(enumerate(description.output_names)),
                }
            },
        },
    }
    # Only Trivox reads its own part, and as it stands.
    return {**plain(described), "trivox": description.model_dump(mode="json")}


def _in_words(description: ModelDescription) -> str:
    name, num_cases = description.network.name, description.fingerprint.num_cases
    if description.num_members == 1:
        return f"{name}, trained by Trivox on {num_cases} cases"
    # The members of a cross-validation share the fingerprint of all cases; none has seen them all.
    each = f"each trained by Trivox on a part of {num_cases} cases"
    return f"{description.num_members} networks ({name}), {each}"
