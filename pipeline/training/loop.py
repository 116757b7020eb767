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
from pipeline.patches import Batch
from pipeline.system.progress import make_progress
from pipeline.training.arithmetic import explain
from pipeline.training.checkpoint import TrainingState
from pipeline.training.config import TrainingConfig
from pipeline.training.distributed import RankLostError, Ranks, on_stop_signal
from pipeline.training.recorder import EpochMetrics, Recorder
from pipeline.training.step import learning_rate_at, progress_of, set_learning_rate

logger = logging.getLogger(__name__)

ENDLESS_EPOCHS = 10**9
"""The budget ends a run, not a number of epochs."""

READ_EVERY = {"cpu": 1, "cuda": 10}
"""Steps from one look at the losses to the next, by kind of device.

Looking makes the process wait until a GPU has done all that it was given, which then idles until it
is given more: a few ms, of a step that takes tens to hundreds. Every tenth time that is below 1 %,
and a loss that is no number, or another rank's wish to stop, is seen within seconds.
"""


class Loop:
    """What happens around the steps of one run.

    Args:
        trainer: Engine whose process function is one step on `state`.
        state: What is trained; holds the iteration to start from.
        config: Budget and intervals.
        checkpoint: Where to save the state.
        recorder: Takes a row per epoch.
        validate: Returns the mean validation Dice of the network as it is, or None. Only the main
            rank calls it; the others wait.
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
        self._stop_requested = self._is_stopping = False
        self._unread: list[float | torch.Tensor] = []
        self._dice: float | None = None
        self._progress = make_progress()
        # Before what measures the steps: that some wait for a GPU is part of what all of them take.
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._finish_step)

    @property
    def is_finished(self) -> bool:
        """Whether the budget is used."""
        return self._share() >= 1

    @property
    def was_told_to_stop(self) -> bool:
        """Whether a signal arrived at any rank, be it in or after the very last step."""
        return self._is_stopping

    def run(self, batches: Iterable[Batch], ranks: Ranks) -> None:
        """Train until the budget is used or a signal arrives; save the state either way.

        Where the budget is used already, only the last epoch is finished; a signal in the last step
        leaves that to the next time.

        Args:
            batches: Endless, starting with that of the iteration that comes next.
            ranks: The processes that train together; each has its part of every batch.

        Raises:
            TrainingError: If training cannot go on. The last checkpoint is left as it is, unless
                another rank was lost: then this one saves the state, which is the same on all. Not
                from a GPU, which may wait for that rank for ever.
        """
        self._ranks = ranks
        self._read_every = READ_EVERY.get(ranks.device.type, 1)
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
            self._check_same_start()
            self._task = self._progress.add_task("Training", total=1.0, note="")
            if not self.is_finished:
                self._trainer.run(batches, epoch_length=self._config.iterations_per_epoch)
            # Before the last validation, which may be long and may fail.
            self._save()
            if self.is_finished and self._state.epoch_losses and not self._is_stopping:
                self._finish_epoch()
                self._save()
        # Since the ranks last agreed, such as while the last epoch was validated; from here on, a
        # signal ends the process as usual.
        (num_stops,) = ranks.sum_over_ranks(float(self._stop_requested))
        self._is_stopping = num_stops > 0

    def _attach(self) -> None:
        on = self._trainer.add_event_handler
        on(Events.GET_BATCH_STARTED, self._start_waiting)
        on(Events.GET_BATCH_COMPLETED, self._stop_waiting)
        on(Events.ITERATION_STARTED, self._prepare_step)
        on(Events.ITERATION_COMPLETED(every=self._config.iterations_per_epoch), self._finish_epoch)
        on(Events.ITERATION_COMPLETED, self._save_or_end)

    def _request_stop(self) -> None:
        # The engine is told after the step, when all ranks know.
        self._stop_requested = True

    @contextmanager
    def _readable_failures(self) -> Iterator[None]:
        try:
            yield
        except RankLostError as error:
            # At once, since the launcher is about to end this process too; and on whichever ranks
            # are left, since each may be the only one.
            if self._ranks.device.type != "cuda":
                self._state.save(self._checkpoint)
                logger.error("%s; saved iteration %d", error.found, self._state.iteration)
            raise
        except RuntimeError as error:
            why = explain(error, self._ranks.device)
            if why is None:
                raise
            raise self._failure(*why, self._state.iteration + 1) from error

    def _failure(self, found: str, remedy: str, iteration: int) -> TrainingError:
        rank = f" on rank {self._ranks.rank}" if self._ranks.world_size > 1 else ""
        error = TrainingError(f"iteration {iteration}{rank}", found, remedy)
        error.exit_code = 1
        return error

    def _check_same_start(self) -> None:
        ranks, iteration = self._ranks, self._state.iteration
        if ranks.sum_over_ranks(iteration) != (ranks.world_size * iteration,):
            found = "the processes resume from different checkpoints"
            remedy = "Let all machines write to the same shared folder (output=...)."
            raise TrainingError(self._checkpoint, found, remedy)

    def _save(self) -> None:
        if self._ranks.is_main:
            self._state.save(self._checkpoint)
        self._last_save = time.monotonic()

    def _share(self) -> float:
        return progress_of(self._config, self._state.iteration, self._state.elapsed_s)

    def _start_waiting(self) -> None:
        self._wait_started = time.monotonic()

    def _stop_waiting(self) -> None:
        self._waited_s += time.monotonic() - self._wait_started

    def _prepare_step(self) -> None:
        # A step's random numbers follow from its iteration, so that resuming needs no random state,
        # and from the rank, further apart than iterations go; a CPU uses 32 bits of a seed.
        torch.manual_seed(self._state.seed + self._state.iteration + (self._ranks.rank << 24))
        set_learning_rate(self._state.optimizer, learning_rate_at(self._config, self._share()))

    def _finish_step(self, trainer: Engine) -> None:
        state = self._state
        # First of all, what holds for this rank even if another one is lost now.
        state.iteration = trainer.state.iteration
        self._unread.append(trainer.state.output)
        if not self._is_time_to_read():
            return
        losses = self._agree()
        for iteration, loss in enumerate(losses, state.iteration + 1 - len(losses)):
            if not math.isfinite(loss):
                remedy = (
                    "Lower training.learning_rate or set training.precision=fp32, under another "
                    "name=..., and check the intensities of the images with `trivox check`."
                )
                raise self._failure(f"the loss became {loss}", remedy, iteration)
        self._show(losses[-1])

    def _is_time_to_read(self) -> bool:
        """Tell whether the run is steered after this step; the same on all ranks."""
        iteration, config = self._state.iteration, self._config
        if iteration % self._read_every == 0 or iteration % config.iterations_per_epoch == 0:
            return True
        return self.is_finished or (self._stop_requested and self._ranks.world_size == 1)

    def _agree(self) -> list[float]:
        """Settle with the other ranks what steers the run; return the mean losses since then."""
        state, ranks = self._state, self._ranks
        if ranks.device.type == "cuda":
            # A GPU would wait for a lost rank for ever, and this process for the GPU.
            ranks.sum_over_ranks(0.0)
        unread = [torch.as_tensor(loss, dtype=torch.float64) for loss in self._unread]
        losses: list[float] = torch.stack(unread).tolist()
        state.elapsed_s = time.monotonic() - self._start
        state.epoch_losses += losses
        self._unread = []
        *losses, state.elapsed_s, num_stops = ranks.sum_over_ranks(
            *(loss / ranks.world_size for loss in losses),
            state.elapsed_s if ranks.is_main else 0.0,
            float(self._stop_requested),
        )
        state.epoch_losses[-len(losses) :] = losses
        self._is_stopping = num_stops > 0
        return losses

    def _finish_epoch(self) -> None:
        state, config = self._state, self._config
        epoch = math.ceil(state.iteration / config.iterations_per_epoch)
        waited = self._waited_s / max(time.monotonic() - self._epoch_start, 1e-9)
        dice = None
        if epoch % config.validate_every_epochs == 0 or self.is_finished:
            self._dice = dice = self._validate_on_main()
            self._show(state.epoch_losses[-1])
        row = EpochMetrics(
            epoch=epoch,
            iteration=state.iteration,
            elapsed_s=state.elapsed_s,
            # The first group is that of most weights.
            learning_rate=state.optimizer.param_groups[0]["lr"],
            loss=float(np.mean(state.epoch_losses)),
            wait_share=waited,
            validation_dice=dice,
        )
        self._recorder.add(row)
        logger.info("%s", self._describe(row))
        state.epoch_losses = []
        self._waited_s, self._epoch_start = 0.0, time.monotonic()

    def _validate_on_main(self) -> float | None:
        dice = self._validate() if self._ranks.is_main else None
        found, self._state.elapsed_s = self._ranks.from_main(
            math.nan if dice is None else dice, time.monotonic() - self._start
        )
        return None if math.isnan(found) else found

    def _save_or_end(self) -> None:
        # Only what all ranks know: a signal since then counts when they next agree; and nothing is
        # saved whose loss was not seen.
        if self._unread:
            return
        if self.is_finished or self._is_stopping:
            self._trainer.terminate()
        elif time.monotonic() - self._last_save > 60 * self._config.checkpoint_minutes:
            self._save()

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
