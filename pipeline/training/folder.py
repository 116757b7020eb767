"""A run's folder: where everything lies, and whether it may be started or resumed."""

import json
import logging
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import yaml

from pipeline import __version__
from pipeline.errors import ConfigError, TrainingError
from pipeline.fingerprint import Fingerprint
from pipeline.manifest import Case, Split
from pipeline.model.folder import METADATA, WEIGHTS
from pipeline.system.files import write_text
from pipeline.system.hashes import TABLE, damaged_in, note_all, state_of, write_noted
from pipeline.system.ownership import set_aside
from pipeline.system.private import RUN_LOCK, only_run
from pipeline.training.checkpoint import BEFORE
from pipeline.training.config import CONFIG, RunConfig, is_same_setting
from pipeline.training.recorder import RecordedSplit, flatten, parse_settings, read_whole

MAY_CHANGE = {
    "admission",
    "device",
    "output",
    "data.root",
    "data.allow_outside",
    "data.cache",
    "inference.window",
    "inference.overlap",
    "inference.batch_size",
    "inference.precision",
    "inference.mirror",
    "postprocessing",
    "evaluation.nsd_tolerance_mm",
    "evaluation.num_resamples",
    "training.max_minutes",
    "training.max_iterations",
    "training.max_epochs",
    "training.deterministic",
    "training.num_workers",
    "training.out_of_fold_probabilities",
    "training.search_postprocessing",
    "training.checkpoint_minutes",
    "training.num_validation_cases",
    "training.validate_every_epochs",
    "estimate",
}
"""Settings that a resumed run may change, all below them included: they do not touch what was
learnt so far."""


logger = logging.getLogger(__name__)

_ASK_FOR_COPY = "Restore it from a copy, or choose another name=... for a new run."


@dataclass(frozen=True)
class RunFolder:
    """Paths in a run's folder."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration; where it lies, a run was begun."""
        return self.path / CONFIG

    @property
    def split(self) -> Path:
        """Names of the training and validation cases, and the volumes of their labels."""
        return self.path / "split.json"

    @property
    def fingerprint(self) -> Path:
        """What the training cases look like."""
        return self.path / "fingerprint.json"

    @property
    def resources(self) -> Path:
        """Memory and time of a step, as planned and as measured."""
        return self.path / "resources.json"

    @property
    def arithmetic(self) -> Path:
        """The precision and memory layout that the run computes in."""
        return self.path / "arithmetic.json"

    @property
    def checkpoint(self) -> Path:
        """The state to resume from."""
        return self.path / "checkpoints" / "last.pt"

    @property
    def state(self) -> Path | None:
        """What to resume from: the checkpoint, or the one before if that was removed; or None."""
        before = self.checkpoint.with_name(BEFORE)
        return next((path for path in (self.checkpoint, before) if path.is_file()), None)

    @property
    def model(self) -> Path:
        """The finished model."""
        return self.path / "model"

    @property
    def validation(self) -> Path:
        """Masks, scores and pictures of the validation cases."""
        return self.path / "validation"

    @property
    def source(self) -> Path:
        """A copy of the model that a fine-tuned run started from."""
        return self.path / "source"

    @property
    def finetuning(self) -> Path:
        """What was loaded from that model, resized and skipped."""
        return self.path / "finetune.json"

    @property
    def finished(self) -> Path:
        """The settings that the run was finished with: trained, saved and validated."""
        return self.path / "finished.json"

    def finish(self, config: RunConfig) -> None:
        """Record that all is done that these settings ask for."""
        note_all(self.validation)
        write_text(self.finished, _in_words(config))

    def is_finished(self, config: RunConfig) -> bool:
        """Tell whether that was recorded, and all is there; what is damaged is set aside."""
        if not self.finished.is_file() or self.finished.read_bytes() != _in_words(config).encode():
            return False
        if not (self.model / METADATA).is_file() or not self.validation.is_dir():
            return False
        kept = (self.model / METADATA.parent, self.model / WEIGHTS.parent, self.validation)
        damaged = [path for each in kept for path in damaged_in(each)]
        for path in damaged:
            logger.warning("%s is damaged or was changed, and is made again", path)
            if path.exists():
                set_aside(path)
        return not damaged

    @property
    def curves(self) -> Path:
        """Loss and Dice over the iterations."""
        return self.path / "curves.png"

    @property
    def is_begun(self) -> bool:
        """Whether a run was begun here, so that it can only be resumed."""
        return self.config.is_file() or state_of(self.config) == "damaged" or self.state is not None

    @contextmanager
    def held(self, *, enabled: bool = True) -> Iterator[None]:
        """Keep other runs out of the folder for the length of a block.

        Args:
            enabled: Of several processes of one run, one holds the folder for all.

        Raises:
            ConfigError: If another one is at work in it.
        """
        if not enabled:
            yield
            return
        remedy = "Wait for it, stop it, or choose another name=... for a new run."
        with only_run(self.path, remedy=remedy, lock=RUN_LOCK):
            yield

    def check_settings(self, config: RunConfig, *, resume: bool) -> None:
        """Refuse settings that do not fit what is here already.

        Raises:
            ConfigError: If a run was begun here, and `resume` is not set or settings that cannot
                change differ.
            TrainingError: If its settings cannot be read.
        """
        if not self.is_begun:
            return
        there = [p for p in (self.config, self.state, self.path / TABLE) if p and p.exists()]
        if not resume:
            remedy = "Add --resume to go on with it, or choose another name=... for a new run."
            raise ConfigError((*there, self.path)[0], "this run exists already", remedy)
        if there and self.config not in there:
            found = f"the file is missing, though {there[0]} is that of a run"
            raise TrainingError(self.config, found, f"Move that away, or: {_ASK_FOR_COPY}")
        old = read_whole(self.config, parse_settings, _ASK_FOR_COPY)
        new = flatten(config.model_dump(mode="json"))
        for key in sorted(old.keys() | new.keys()):
            if not is_same_setting(key, old.get(key), new.get(key)) and not _may_change(key):
                found = f"the run was started with {key}={old.get(key)}, now {new.get(key)}"
                remedy = "Resume with the same settings, or choose another name=..."
                raise ConfigError(self.config, found, remedy)

    def check_split(self, split: Split) -> None:
        """Refuse to go on with other cases: those trained on could end up in the validation.

        Raises:
            ConfigError: If a case was added, removed or moved since the run was begun.
            TrainingError: If the cases of the run cannot be read.
        """
        old = self.read_split()
        changed = sorted(
            (set(old.train) ^ set(_names(split.train)))
            | (set(old.validation) ^ set(_names(split.validation)))
        )
        if changed:
            found = (
                f"{len(changed)} cases were added, removed or moved between training and "
                f"validation since the run was started, such as {changed[0]!r}"
            )
            remedy = "Restore the manifest, or choose another name=... for a new run."
            raise ConfigError(self.split, found, remedy)

    def begin(self, config: RunConfig, split: RecordedSplit, fingerprint: Fingerprint) -> None:
        """Record a new run. Its configuration goes last: without it there is no run.

        Args:
            config: Its settings.
            split: Its cases.
            fingerprint: Of the cases that decide the preprocessing.
        """
        write_noted(self.split, split.model_dump_json(indent=2))
        write_noted(self.fingerprint, fingerprint.model_dump_json(indent=2))
        self.record_settings(config)

    def read_fingerprint(self) -> Fingerprint:
        """Return the fingerprint of a run that was begun.

        Raises:
            TrainingError: If it cannot be read.
        """
        return read_whole(self.fingerprint, Fingerprint.model_validate_json, _ASK_FOR_COPY)

    def read_split(self) -> RecordedSplit:
        """Return the cases of a run that was begun.

        Raises:
            TrainingError: If they cannot be read.
        """
        return read_whole(self.split, RecordedSplit.model_validate_json, _ASK_FOR_COPY)

    def record_settings(self, config: RunConfig) -> None:
        """Write the configuration, and the versions it runs with."""
        environment = {
            "trivox": __version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "processor": platform.machine(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "monai": version("monai"),
            "numpy": np.__version__,
        }
        write_noted(self.path / "environment.json", json.dumps(environment, indent=2))
        write_noted(self.config, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))


def _in_words(config: RunConfig) -> str:
    return json.dumps(config.model_dump(mode="json"), indent=2)


def _names(cases: Sequence[Case]) -> list[str]:
    return [case.name for case in cases]


def _may_change(key: str) -> bool:
    return any(key == setting or key.startswith(f"{setting}.") for setting in MAY_CHANGE)
