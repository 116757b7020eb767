"""The configuration of a whole experiment, and what its plan said that it takes."""

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import torch
from ignite.engine import Engine, Events
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pipeline.evaluation import EvaluationConfig
from pipeline.gate import AdmissionConfig
from pipeline.inference import InferenceConfig, Precision, WindowSize
from pipeline.losses import LossConfig
from pipeline.manifest import DataPlace
from pipeline.network import NetworkConfig
from pipeline.phantom import PhantomConfig
from pipeline.postprocessing import PostprocessingConfig
from pipeline.postprocessing.crf import CrfConfig
from pipeline.study import StudyConfig
from pipeline.system.files import write_text
from pipeline.transforms import AugmentationConfig, PreprocessingConfig

logger = logging.getLogger(__name__)

SAMPLING_S = 0.1
WARM_UPS = 3
"""First steps, which are slow and do not count."""


class Resources(BaseModel):
    """What training takes, as planned or as measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    memory_gb: float = Field(
        gt=0,
        description="Peak of a step, in 10^9 bytes: of all processes, or of tensors on a GPU.",
    )
    seconds_per_iteration: float = Field(gt=0, description="With the wait for patches.")


@dataclass
class ResourceMeter:
    """Measures the steps of a trainer; validation in between does not count.

    Attributes:
        device: That the steps run on.
        peak_bytes: Most memory seen in a step so far.
    """

    device: torch.device
    peak_bytes: int = 0

    def __post_init__(self) -> None:
        self._in_step = threading.Event()
        self._started = 0.0
        self._steps = 0
        self._seconds = 0.0

    def attach(self, trainer: Engine) -> None:
        """Watch the steps of `trainer`. Before other handlers, so that theirs do not count."""
        trainer.add_event_handler(Events.GET_BATCH_STARTED, self._start)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._finish)

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Sample the memory of this process and its children, on a CPU, while the block runs."""
        if self.device.type == "cuda":
            yield
            return
        stop = threading.Event()
        sampler = threading.Thread(target=self._sample, args=(stop,), daemon=True)
        sampler.start()
        try:
            yield
        finally:
            stop.set()
            sampler.join()

    @property
    def measured(self) -> Resources | None:
        """What was measured, or None if there were too few steps."""
        if self._steps <= WARM_UPS or not self.peak_bytes:
            return None
        seconds = self._seconds / (self._steps - WARM_UPS)
        return Resources(memory_gb=self.peak_bytes / 1e9, seconds_per_iteration=seconds)

    def _start(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self._started = time.monotonic()
        self._in_step.set()

    def _finish(self) -> None:
        self._in_step.clear()
        self._steps += 1
        if self._steps > WARM_UPS:
            self._seconds += time.monotonic() - self._started
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
        else:
            # A step may be shorter than the time between samples.
            peak = psutil.Process().memory_info().rss
        self.peak_bytes = max(self.peak_bytes, peak)

    def _sample(self, stop: threading.Event) -> None:
        process = psutil.Process()
        of_children, asked = 0, 0.0
        while not stop.wait(SAMPLING_S):
            if not self._in_step.is_set():
                continue
            if time.monotonic() - asked > 5:
                # What the children share with this process is counted with it.
                of_children, asked = _own_bytes_of_children(process), time.monotonic()
            self.peak_bytes = max(self.peak_bytes, process.memory_info().rss + of_children)


def report_resources(planned: Resources | None, meter: ResourceMeter, path: Path) -> None:
    """Write what was measured beside what was planned, and log both; nothing if nothing was."""
    measured = meter.measured
    if measured is None:
        return
    content = {
        "planned": None if planned is None else planned.model_dump(),
        "measured": measured.model_dump(),
    }
    write_text(path, json.dumps(content, indent=2))
    plan = "" if planned is None else f"planned {_words(planned)}; "
    logger.info("%smeasured %s", plan, _words(measured))


def _words(resources: Resources) -> str:
    return f"{resources.memory_gb:.2g} GB, {resources.seconds_per_iteration:.2g} s per iteration"


def _own_bytes_of_children(process: psutil.Process) -> int:
    total = 0
    for child in process.children(recursive=True):
        try:
            total += child.memory_full_info().uss
        except psutil.Error:  # It ended meanwhile, or may not be looked at.
            continue
    return total


Freeze = Literal["nothing", "encoder", "all_but_head"]

ALIASES = {"fold": "data.fold", "folds": "data.folds"}
"""Short names that the command line takes for settings."""


CONFIG = "config.yaml"
"""In a run's folder: the resolved configuration; where it lies, a run was begun."""


class DataConfig(DataPlace):
    """Which cases to learn from. Paths are relative to the folder that the command runs in."""

    manifest: Path | None = Field(
        default=None, description="A manifest, a dataset.json, or the folder of a data set."
    )
    phantom: PhantomConfig | None = Field(
        default=None, description="Make this synthetic cohort in `root` and train on it."
    )
    folds: int = Field(
        default=5,
        ge=2,
        le=1000,
        description="Parts of the cases, where the manifest sets no split.",
    )
    fold: int | Literal["all"] = Field(
        default=0,
        description="The part to validate with, from 0; all: each in turn (cross-validation).",
    )
    cache: Path = Field(default=Path("runs/.cache"), description="Preprocessed cases.")

    @field_validator("fold", mode="before")
    @classmethod
    def _fold_is_one_or_all(cls, value: object) -> object:
        is_number = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        if not is_number and value != "all":
            raise ValueError("give the number of a fold, from 0, or all")
        return value

    @model_validator(mode="after")
    def _one_source(self) -> "DataConfig":
        if (self.manifest is None) == (self.phantom is None):
            raise ValueError("set either data.manifest or data.phantom")
        if self.phantom is not None and self.root is None:
            raise ValueError("data.phantom needs data.root, the folder to make it in")
        if self.fold != "all" and self.fold >= self.folds:
            raise ValueError(f"data.fold={self.fold}, but folds are numbered 0..{self.folds - 1}")
        return self


Layout = Literal["auto", "contiguous", "channels_last"]


class TrainingConfig(BaseModel):
    """How to train. The run ends at whichever budget is reached first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_minutes: float | None = Field(
        default=None, gt=0, description="Of training and the validation in between."
    )
    max_iterations: int | None = Field(default=None, ge=1, description="Batches.")
    max_epochs: int | None = Field(default=None, ge=1, description="Rows of metrics.csv.")
    iterations_per_epoch: int = Field(default=50, ge=1, description="Batches per row.")
    patch_size: tuple[WindowSize, WindowSize, WindowSize] = Field(
        default=(64, 64, 64), description="Working voxels along R, A, S."
    )
    batch_size: int = Field(default=2, ge=1, le=4096, description="Patches per iteration.")
    foreground_share: float = Field(
        default=0.67, ge=0, le=1, description="Of patches that are placed on a labelled voxel."
    )
    optimizer: Literal["adamw", "sgd"] = Field(
        default="adamw", description="sgd: with Nesterov momentum 0.99."
    )
    learning_rate: float = Field(default=2e-3, gt=0, description="At the end of the warm-up.")
    weight_decay: float = Field(default=1e-2, ge=0, description="Of the optimiser.")
    warmup_share: float = Field(
        default=0.02, ge=0, lt=1, description="Of the budget, while the learning rate rises."
    )
    gradient_clip: float = Field(default=12.0, gt=0, description="Largest norm of the gradient.")
    ema_decay: float = Field(
        default=0.99,
        ge=0,
        lt=1,
        description="Of the averaged weights that are kept; less in the first steps; 0: none.",
    )
    freeze: Freeze = Field(
        default="nothing",
        description="What fine-tuning (--from) leaves as it was at first: nothing, the encoder, or "
        "all but the head that gives the logits.",
    )
    freeze_share: float = Field(
        default=0.1, ge=0, lt=1, description="Of the budget, until what is frozen learns too."
    )
    precision: Precision = Field(
        default="auto",
        description="Of the network; weights and loss stay float32. auto: the fastest, measured.",
    )
    layout: Layout = Field(
        default="auto", description="Of tensors in memory: auto, contiguous or channels_last."
    )
    deterministic: bool = Field(
        default=False,
        description="Repeat to the last bit from run to run: `auto` measures nothing, and a GPU "
        "computes in a fixed order, which is slower; networks and losses that need an operation "
        "without such a form are refused.",
    )
    num_workers: int = Field(default=1, ge=0, le=256, description="Processes that prepare patches.")
    validate_every_epochs: int = Field(
        default=10, ge=1, description="Epochs from one validation to the next."
    )
    num_validation_cases: int = Field(
        default=4, ge=0, description="Segmented whole during training; all of them at the end."
    )
    out_of_fold_probabilities: bool = Field(
        default=True,
        description="Keep the probabilities of cross-validation (fold=all), a byte a voxel and "
        "class before compression, for work of your own on them.",
    )
    search_postprocessing: bool = Field(
        default=True,
        description="At the end, choose post-processing on the cases that the model never saw, "
        "within 15 % of the training's time or a minute, whichever is more.",
    )
    checkpoint_minutes: float = Field(
        default=2.0, gt=0, description="Time between checkpoints: what a killed run loses at most."
    )

    crf: CrfConfig | None = Field(
        default=None,
        description="Train through a conditional random field that starts from these parameters; "
        "{}: from the usual ones. What it learns is kept with the model, for post-processing.",
    )

    @model_validator(mode="after")
    def _has_budget(self) -> "TrainingConfig":
        if self.max_minutes is None and self.max_iterations is None and self.max_epochs is None:
            raise ValueError("set a budget: max_minutes, max_iterations or max_epochs")
        return self


class RunConfig(BaseModel):
    """One experiment: what `trivox train` takes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Of the run's folder.")
    output: Path = Field(default=Path("runs"), description="Folder of all runs.")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Of weights, patches and folds.")
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N.")
    data: DataConfig
    study: StudyConfig = StudyConfig()
    preprocessing: PreprocessingConfig = PreprocessingConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    network: NetworkConfig = NetworkConfig()
    loss: LossConfig = LossConfig()
    training: TrainingConfig
    inference: InferenceConfig = InferenceConfig()
    postprocessing: PostprocessingConfig = PostprocessingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    admission: AdmissionConfig = AdmissionConfig()
    estimate: Resources | None = Field(
        default=None, description="What a plan says that training takes; compared at its end."
    )

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.output / self.name

    def absolute(self) -> "RunConfig":
        """Return the same run with paths that hold in any folder, as they are recorded.

        A manifest that is not there may be one that comes with Trivox, and keeps its name.
        """
        manifest, root = self.data.manifest, self.data.root
        paths = {
            "manifest": manifest.absolute() if manifest and manifest.exists() else manifest,
            "root": root and root.absolute(),
            "cache": self.data.cache.absolute(),
        }
        data = self.data.model_copy(update=paths)
        return self.model_copy(update={"data": data, "output": self.output.absolute()})

    @model_validator(mode="after")
    def _sizes_fit(self) -> "RunConfig":
        self.network.check_size("training.patch_size", self.training.patch_size)
        if self.inference.window is not None:
            self.network.check_size("inference.window", self.inference.window)
        self.inference.check_mirror(self.augmentation.flip_axes)
        return self


def is_same_setting(key: str, old: object, new: object) -> bool:
    """Compare two values of a setting; a path may be spelled from the current folder."""
    if key == "data.manifest" and isinstance(old, str) and isinstance(new, str):
        return Path(old).absolute() == Path(new).absolute()
    if key.startswith("preprocessing.normalisation.") and old is None:
        # Runs of earlier versions record no scheme; they had one for CT and one for the rest.
        return new in ("ct", "zscore_nonzero")
    return old == new
