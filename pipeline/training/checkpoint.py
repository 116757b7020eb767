"""The state of an interrupted run: all that going on exactly needs."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel

from pipeline.errors import TrainingError
from pipeline.postprocessing.crf.layer import CrfLayer
from pipeline.system.hashes import check_whole, link_noted, noted_path, state_of
from pipeline.system.text import open_ordinary

BEFORE = "previous.pt"
"""Beside a checkpoint, the one that was there before it."""


@dataclass
class TrainingState:
    """What changes while training.

    Attributes:
        network: The network that is trained.
        averaged: Running mean of its weights, or None.
        optimizer: Over the network's parameters.
        scaler: Of the loss, for float16; does nothing otherwise.
        seed: Of the random numbers used inside a step, such as dropout.
        iteration: Finished iterations.
        elapsed_s: Time in training so far, over all resumes.
        epoch_losses: Losses of the current epoch so far.
        crf: The layer that the network is trained through, or None.
    """

    network: torch.nn.Module
    averaged: AveragedModel | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    seed: int
    iteration: int = 0
    elapsed_s: float = 0.0
    epoch_losses: list[float] = field(default_factory=list)
    crf: CrfLayer | None = None

    @property
    def network_to_keep(self) -> torch.nn.Module:
        """The network to validate and keep: the averaged one where there is one."""
        return self.network if self.averaged is None else self.averaged.module

    @property
    def learners(self) -> torch.nn.ModuleList:
        """All that is optimised."""
        return torch.nn.ModuleList([self.network, *([] if self.crf is None else [self.crf])])

    def save(self, path: Path) -> None:
        """Write a checkpoint, atomically; the one before it is kept, unless it is damaged."""
        content: dict[str, Any] = {
            "network": self.network.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "iteration": self.iteration,
            "elapsed_s": self.elapsed_s,
            "epoch_losses": self.epoch_losses,
        }
        if self.crf is not None:
            content["crf"] = self.crf.state_dict()
        with noted_path(path) as temporary:
            torch.save(content, temporary)
            if path.is_file() and state_of(path) != "damaged":
                link_noted(path, path.with_name(BEFORE))

    def load(self, path: Path) -> None:
        """Read a checkpoint back, without executing anything in it.

        Raises:
            TrainingError: If it is damaged, cannot be read or belongs to another network.
        """
        remedy = _what_helps(path)
        check_whole(path, TrainingError, remedy, "the checkpoint")
        try:
            with open_ordinary(path) as file:
                content = torch.load(file, map_location="cpu", weights_only=True)
            self.network.load_state_dict(content["network"])
            if self.averaged is not None:
                self.averaged.load_state_dict(content["averaged"])
            if self.crf is not None:
                self.crf.load_state_dict(content["crf"])
            groups = content["optimizer"]["param_groups"]
            for saved, own in zip(groups, self.optimizer.param_groups, strict=True):
                # That of this device, where the run moves from another kind.
                saved["fused"] = own["fused"]
            self.optimizer.load_state_dict(content["optimizer"])
            # Empty where the loss was not scaled: the run moves from a device without float16.
            if content["scaler"]:
                self.scaler.load_state_dict(content["scaler"])
            self.iteration = content["iteration"]
            self.elapsed_s = content["elapsed_s"]
            self.epoch_losses = content["epoch_losses"]
        except Exception as error:  # torch raises many kinds for a torn or foreign file
            found = f"the checkpoint cannot be resumed from ({type(error).__name__})"
            raise TrainingError(path, found, remedy) from error


def _what_helps(path: Path) -> str:
    """Return what to do about a damaged checkpoint: the one before it is offered if it is whole."""
    before = path.with_name(BEFORE)
    if path != before and before.is_file() and state_of(before) != "damaged":
        return f"The one before it is whole: remove {path.name} to go on from {before.name}."
    return "Remove the run's folder to train from the start, or choose another name=..."
