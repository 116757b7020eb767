"""A run's folder: where everything lies, and whether it may be started or resumed."""

import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
import yaml

from pipeline import __version__
from pipeline.errors import ConfigError
from pipeline.files import write_text
from pipeline.training.config import RunConfig

MAY_CHANGE = {
    "device",
    "output",
    "data.cache",
    "training.max_minutes",
    "training.max_iterations",
    "training.max_epochs",
    "training.num_workers",
    "training.checkpoint_minutes",
    "training.num_validation_cases",
    "training.validate_every_epochs",
}
"""Settings that a resumed run may change: they do not touch what was learnt so far."""


@dataclass(frozen=True)
class RunFolder:
    """Paths in a run's folder."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def checkpoint(self) -> Path:
        """The state to resume from."""
        return self.path / "checkpoints" / "last.pt"

    @property
    def fingerprint(self) -> Path:
        """What the training cases look like."""
        return self.path / "fingerprint.json"

    @property
    def model(self) -> Path:
        """The finished model."""
        return self.path / "model"

    @property
    def validation(self) -> Path:
        """Masks, scores and pictures of the validation cases."""
        return self.path / "validation"

    @property
    def curves(self) -> Path:
        """Loss and Dice over the iterations."""
        return self.path / "curves.png"

    def start(self, config: RunConfig) -> None:
        """Begin a new run here.

        Raises:
            ConfigError: If there is one already.
        """
        if self.config.exists():
            remedy = "Add --resume to go on with it, or choose another name=... for a new run."
            raise ConfigError(self.path, "this run exists already", remedy)
        self._record(config)

    def resume(self, config: RunConfig) -> None:
        """Go on with the run here, or begin it if there is none.

        Raises:
            ConfigError: If it was started with other settings.
        """
        if self.config.exists():
            old = _flatten(yaml.safe_load(self.config.read_text("utf-8")))
            new = _flatten(config.model_dump(mode="json"))
            for key in sorted(old.keys() | new.keys()):
                if key not in MAY_CHANGE and old.get(key) != new.get(key):
                    found = f"the run was started with {key}={old.get(key)}, now {new.get(key)}"
                    remedy = "Resume with the same settings, or choose another name=..."
                    raise ConfigError(self.config, found, remedy)
        self._record(config)

    def _record(self, config: RunConfig) -> None:
        write_text(self.config, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
        environment = {
            "trivox": __version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "processor": platform.machine(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "monai": monai.__version__,
            "numpy": np.__version__,
        }
        write_text(self.path / "environment.json", json.dumps(environment, indent=2))


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested settings into dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
