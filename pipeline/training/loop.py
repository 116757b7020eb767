"""The training loop: an ignite engine, and what happens at its events."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from ignite.engine import Engine, Events

from pipeline.errors import TrainingError
from pipeline.progress import make_progress
from pipeline.training.budget import learning_rate_at, progress_of
from pipeline.training.checkpoint import TrainingState
from pipeline.training.config import TrainingConfig
from pipeline.training.recorder import EpochMetrics, Recorder
from pipeline.training.signals import on_stop_signal
from pipeline.training.step import Batch

logger = logging.getLogger(__name__)

ENDLESS_EPOCHS = 10**9
"""The budget ends a run, not a number of epochs."""


class Loop:
    """What happens around the steps of one run.

    Args:
        trainer: Engine whose process function is one step on `state`.
        state: What is trained; holds the iteration to start from.
        config: Budget and intervals.
        checkpoint: Where to save the state.
        recorder: Takes a row per epoch.
        validate: Returns the mean validation Dice of the network as it is, or None.
    """

    def __init__(
        self,
        trainer: Engine,
        state: TrainingState,
        config: TrainingConfig,
        *,
        checkpoint: Path,
        recorder: Recorder,
        validate: Callable[[], float | None],
    ) -> None:
        self._trainer = trainer
        self._state = state
        self._config = config
        self._checkpoint = checkpoint
        self._recorder = recorder
        self._validate = validate
        self._waited_s = self._wait_started = 0.0
        self._stop_requested = False
        self._dice: float | None = None
        self._progress = make_progress()

    @property
    def is_finished(self) -> bool:
        """Whether the budget is used."""
        return self._share() >= 1

    def run(self, batches: Iterable[Batch]) -> None:
        """Train until the budget is used or a signal arrives; save the state either way.

        Args:
            batches: Endless, starting with that of the iteration that comes next.

        Raises:
            TrainingError: If training cannot go on. The last checkpoint is left as it is.
        """
        self._start = time.monotonic() - self._state.elapsed_s
        self._epoch_start = self._last_save = time.monotonic()
        self._attach()
        self._trainer.load_state_dict(
            {
                "iteration": self._state.iteration,
                "epoch_length": self._config.iterations_per_epoch,
                "max_epochs": ENDLESS_EPOCHS,
            }
        )
        with self._progress, on_stop_signal(self._request_stop), self._readable_failures():
            self._task = self._progress.add_task("Training", total=1.0, note="")
            self._trainer.run(batches, epoch_length=self._config.iterations_per_epoch)
            # Before the last validation, which may be long and may fail.
            self._state.save(self._checkpoint)
            if self.is_finished and self._state.epoch_losses:
                self._finish_epoch()
                self._state.save(self._checkpoint)

    def _attach(self) -> None:
        on = self._trainer.add_event_handler
        on(Events.GET_BATCH_STARTED, self._start_waiting)
        on(Events.GET_BATCH_COMPLETED, self._stop_waiting)
        on(Events.ITERATION_STARTED, self._prepare_step)
        on(Events.ITERATION_COMPLETED, self._finish_step)
        on(Events.ITERATION_COMPLETED(every=self._config.iterations_per_epoch), self._finish_epoch)
        on(Events.ITERATION_COMPLETED, self._save_or_end)

    def _request_stop(self) -> None:
        # Kept as well, since the engine forgets what it was told before its run.
        self._stop_requested = True
        self._trainer.terminate()

    @contextmanager
    def _readable_failures(self) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError as error:
            remedy = "Lower training.batch_size or training.patch_size, under another name=..."
            raise self._failure("the GPU ran out of memory", remedy) from error
        except RuntimeError as error:
            # What torch raises when one of its worker processes died; it has no type of its own.
            if "DataLoader worker" not in str(error):
                raise
            remedy = "Free memory or set training.num_workers=0, and go on with --resume."
            raise self._failure("a process that prepares patches died", remedy) from error

    def _failure(self, found: str, remedy: str) -> TrainingError:
        return TrainingError(f"iteration {self._state.iteration + 1}", found, remedy)

    def _share(self) -> float:
        return progress_of(self._config, self._state.iteration, self._state.elapsed_s)

    def _start_waiting(self) -> None:
        self._wait_started = time.monotonic()

    def _stop_waiting(self) -> None:
        self._waited_s += time.monotonic() - self._wait_started

    def _prepare_step(self) -> None:
        # A step's random numbers follow from its iteration, so that resuming needs no random state.
        torch.manual_seed(self._state.seed + self._state.iteration)
        for group in self._state.optimizer.param_groups:
            group["lr"] = learning_rate_at(self._config, self._share())

    def _finish_step(self, trainer: Engine) -> None:
        loss = trainer.state.output
        if not math.isfinite(loss):
            remedy = (
                "Lower training.learning_rate or set training.precision=fp32, under another "
                "name=..., and check the intensities of the images with `trivox check`."
            )
            raise self._failure(f"the loss became {loss}", remedy)
        self._state.iteration = trainer.state.iteration
        self._state.elapsed_s = time.monotonic() - self._start
        self._state.epoch_losses.append(loss)
        self._show(loss)

    def _finish_epoch(self) -> None:
        state, config = self._state, self._config
        epoch = math.ceil(state.iteration / config.iterations_per_epoch)
        waited = self._waited_s / max(time.monotonic() - self._epoch_start, 1e-9)
        dice = None
        if epoch % config.validate_every_epochs == 0 or self.is_finished:
            self._dice = dice = self._validate()
            state.elapsed_s = time.monotonic() - self._start
            self._show(state.epoch_losses[-1])
        row = EpochMetrics(
            epoch=epoch,
            iteration=state.iteration,
            elapsed_s=state.elapsed_s,
            learning_rate=state.optimizer.param_groups[0]["lr"],
            loss=float(np.mean(state.epoch_losses)),
            wait_share=waited,
            validation_dice=dice,
        )
        self._recorder.add(row)
        logger.info("%s", self._describe(row))
        state.epoch_losses = []
        self._waited_s, self._epoch_start = 0.0, time.monotonic()

    def _save_or_end(self) -> None:
        if self.is_finished or self._stop_requested:
            self._trainer.terminate()
        elif time.monotonic() - self._last_save > 60 * self._config.checkpoint_minutes:
            self._state.save(self._checkpoint)
            self._last_save = time.monotonic()

    def _show(self, loss: float) -> None:
        dice = "" if self._dice is None else f", validation Dice {self._dice:.3f}"
        note = f"iteration {self._state.iteration}, loss {loss:.3f}{dice}"
        self._progress.update(self._task, completed=self._share(), note=note)

    def _describe(self, row: EpochMetrics) -> str:
        share = self._share()
        left_s = row.elapsed_s / max(share, 1e-9) * (1 - share)
        dice = "" if row.validation_dice is None else f", validation Dice {row.validation_dice:.4f}"
        return (
            f"epoch {row.epoch}, iteration {row.iteration}, {100 * share:.0f} % of the budget: "
            f"loss {row.loss:.4f}{dice}, about {left_s / 60:.1f} min left"
        )
