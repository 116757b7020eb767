"""What a run is asked for: whatever decides a study's outputs, besides the study."""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch

from pipeline.cohort.recipe import settings_of
from pipeline.errors import ModelError
from pipeline.inference import NotEnoughMemory, choose_device
from pipeline.model import Model, ModelDescription, load_model
from pipeline.output import OutputKind
from pipeline.output.dicom import Algorithm, DicomOutputConfig
from pipeline.output.places import Outputs
from pipeline.segmentation import Segmenter
from pipeline.study import DicomSeries
from pipeline.study.input import StudyInput


@dataclass(frozen=True)
class Replace:
    """Studies whose masks may be replaced although a person or another model made them.

    Attributes:
        cases: Their names.
        is_all: Whether that holds for all studies.
    """

    cases: frozenset[str] = frozenset()
    is_all: bool = False

    @classmethod
    def of(cls, words: Sequence[str]) -> Self:
        """Return what the words behind each `--replace` stand for; an empty one: all."""
        return cls(frozenset(words) - {""}, "" in words)

    def covers(self, case: str) -> bool:
        """Tell whether a study is one of them."""
        return self.is_all or case in self.cases


_NOTHING = Replace()


@dataclass(frozen=True)
class SegmentOptions:
    """What to write beside masks and provenance, and what it may take.

    Attributes:
        probabilities: Write the class probabilities.
        pictures: Write a picture of each mask.
        dicom: Write DICOM SEG and SR of DICOM studies, and how; None: do not.
        max_bytes: Of main memory that the process may take; None: all that is free.
        replace: Masks that are not left alone although a person or another model made them.
    """

    probabilities: bool = False
    pictures: bool = False
    dicom: DicomOutputConfig | None = None
    max_bytes: int | None = None
    replace: Replace = _NOTHING

    def shared_by(self, num_processes: int) -> Self:
        """Return what each of several processes may take."""
        share = None if self.max_bytes is None else self.max_bytes // num_processes
        return replace(self, max_bytes=share)

    @property
    def kinds(self) -> list[OutputKind]:
        """What is written for each study that it can be written for."""
        kinds: dict[OutputKind, bool] = {
            "mask": True,
            "probabilities": self.probabilities,
            "picture": self.pictures,
            "dicom_segmentation": self.dicom is not None,
            "dicom_report": self.dicom is not None,
        }
        return [kind for kind, is_wanted in kinds.items() if is_wanted]

    def wanted(self, study: StudyInput, out: Path) -> dict[OutputKind, Path]:
        """Return the files that a study must have in `out`, besides its provenance.

        DICOM outputs refer to a source series, which is that of the first channel.
        """
        outputs = Outputs.of(out, study)
        is_dicom = bool(study.sources) and isinstance(study.sources[0], DicomSeries)
        kinds = (kind for kind in self.kinds if is_dicom or not kind.startswith("dicom"))
        return {kind: outputs.path(kind) for kind in kinds}


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


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What to do with every study of a run.

    Attributes:
        description: The model's, with the user's settings.
        sha256: Of the model's weights and of what it says of itself.
        out: The output folder.
        options: What to write, and what that may take.
        folder: The model's, if it has one; kept in the journal, to make a mask again.
    """

    description: ModelDescription
    sha256: str
    out: Path
    options: SegmentOptions
    folder: Path | None = None

    @property
    def labels(self) -> Mapping[str, int]:
        """Name and value of each label."""
        return self.description.labels

    @property
    def method(self) -> str:
        """A hash of what decides a mask: model, settings, and the outputs wanted."""
        settings = settings_of(self.description, self.options.dicom)
        return _hash([self.sha256, settings, self.options.kinds])

    @property
    def gate(self) -> str:
        """A hash of what decides whether a study is rejected: the method, and admission's settings.

        Those are no part of the method, so that letting three studies through does not redo 3,000.
        """
        return _hash([self.method, self.description.admission.model_dump(mode="json")])

    def as_record(self) -> dict[str, Any]:
        """Return what the journal keeps of it."""
        return {
            "model": self.description.name,
            "sha256": self.sha256,
            "folder": str(self.folder or ""),
            "labels": dict(self.labels),
            "outputs": self.options.kinds,
        }


def _hash(content: list[Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class RemoteJob:
    """A job that another process will do: it can be sent there, and loads the model there.

    Attributes:
        request: What to do, with a model's folder.
        device: To compute on: `auto`, `cpu`, `cuda` or `cuda:N`.
        num_processes: That share the machine's processor cores and the memory that may be taken.
    """

    request: Request
    device: str
    num_processes: int = 1

    def make(self) -> Job:
        """Load the model and return the job ready to be done.

        Where `auto` takes a GPU that the model does not fit on, it goes on with the CPU.

        Raises:
            ModelError: If the folder is no model, or holds another one by now, or if the device has
                not the memory for it.
            ConfigError: If there is no such device.
        """
        if self.num_processes > 1:
            torch.set_num_threads(max(1, torch.get_num_threads() // self.num_processes))
        device = choose_device(self.device)
        try:
            return self._make_on(device)
        except ModelError as error:
            is_small = isinstance(error.__cause__, NotEnoughMemory | torch.OutOfMemoryError)
            if not is_small or device.type == "cpu" or self.device != "auto":
                raise
            logger.warning("%s The CPU is used.", error)
        return self._make_on(torch.device("cpu"))

    def _make_on(self, device: torch.device) -> Job:
        try:
            return self._load_on(device)
        except torch.OutOfMemoryError as error:
            found = f"the model {self.request.description.name!r} does not fit on {device}: "
            found += str(error).partition("\n")[0]
            remedy = (
                "End what takes its memory (`nvidia-smi` shows it), or choose another --device."
            )
            raise ModelError("device", found, remedy) from error

    def _load_on(self, device: torch.device) -> Job:
        folder = self.request.folder
        if folder is None:
            raise ValueError("a job for another process needs the model's folder")
        model = load_model(folder, device)
        if model.sha256 != self.request.sha256:
            remedy = "Leave the model's folder alone while a run uses it, and run again."
            raise ModelError(folder, "the model is not the one that the run began with", remedy)
        model = replace(model, description=self.request.description)
        options = self.request.options.shared_by(self.num_processes)
        return Job.of(model, device, self.request.out, options)
