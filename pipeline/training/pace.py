"""Whether the steps of a run come as fast as they must: said in its first minute, and once."""

import logging
import math
import statistics
import time
from dataclasses import dataclass

import psutil
import torch
from ignite.engine import Engine, Events

from pipeline.system.processes import waited_s
from pipeline.training.checkpoint import TrainingState
from pipeline.training.config import WARM_UPS, RunConfig
from pipeline.training.loop import READ_EVERY

logger = logging.getLogger(__name__)

ENOUGH_TIMES = 10
"""Times of steps after the warm-up that are enough to judge by."""

LONGEST_S = 30.0
"""After so long the run is judged by the times there are, if there are two."""

SLOW = 1.5
"""Times the planned seconds; a step that takes more is slow."""

FEWEST_STEPS = 300
"""Fewer steps than these rarely teach a network much."""

MOST_WAITING = 0.1
"""Of the time that threads may wait for a core; more, and others take the cores."""


@dataclass
class PaceCheck:
    """Warns once if the minutes of a run will hold fewer steps than planned, or too few.

    Validation does not count. On a GPU a time is that of the steps from one look at the losses to
    the next, divided by their number.

    Attributes:
        state: Of the run.
        config: Its budget, and what its plan said of a step.
        device: That the steps run on.
    """

    state: TrainingState
    config: RunConfig
    device: torch.device

    def __post_init__(self) -> None:
        self._started = 0.0
        self._unread: list[float] = []
        self._times_s: list[float] = []
        self._is_said = self.config.training.max_minutes is None

    def attach(self, trainer: Engine) -> None:
        """Watch the steps of `trainer`. Before other handlers, so that theirs do not count."""
        self._began, self._taken_before_s = time.monotonic(), taken_by_others_s()
        trainer.add_event_handler(Events.GET_BATCH_STARTED, self._start)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._finish)

    def _start(self) -> None:
        self._started = time.monotonic()

    def _finish(self) -> None:
        if self._is_said:
            return
        now = time.monotonic()
        self._unread.append(now - self._started)
        if self.state.iteration % READ_EVERY.get(self.device.type, 1):
            return
        self._times_s.append(statistics.fmean(self._unread))
        self._unread = []
        count = len(self._times_s)
        if count >= WARM_UPS + ENOUGH_TIMES or (count > 1 and now - self._began >= LONGEST_S):
            self._is_said = True
            text = self._judge(statistics.median(self._times_s[min(WARM_UPS, count // 2) :]))
            if text is not None:
                logger.warning("%s", text)

    def _judge(self, seconds: float) -> str | None:
        """Return what to warn of, where a step takes that many seconds."""
        training, planned = self.config.training, self.config.estimate
        assert training.max_minutes is not None
        most = min(
            training.max_iterations or math.inf,
            (training.max_epochs or math.inf) * training.iterations_per_epoch,
        )
        iteration, elapsed_s = self.state.iteration, self.state.elapsed_s
        held = iteration + (60 * training.max_minutes - elapsed_s) / seconds
        if held >= most:
            return None
        text = f"a step takes {seconds:.2g} s"
        in_place, wanted = "", 0.0
        if planned is not None and seconds > SLOW * planned.seconds_per_iteration:
            wanted = min(most, 60 * training.max_minutes / planned.seconds_per_iteration)
            text += f", not {planned.seconds_per_iteration:.2g} s as planned"
            in_place = f" in place of {wanted:.0f}"
        is_few = held < FEWEST_STEPS
        if not in_place and not is_few:
            return None
        wanted = max(wanted, min(most, FEWEST_STEPS))
        text += f", so that {training.max_minutes:g} minutes hold about {held:.0f}{in_place}"
        few = f"; fewer than {FEWEST_STEPS} rarely teach a network much" if is_few else ""
        minutes = math.ceil((elapsed_s + (wanted - iteration) * seconds) / 60)
        return (
            f"{text}{few}. {self._why_slow()}For {wanted:.0f} steps, stop this with Ctrl-C and "
            f"add training.max_minutes={minutes} to the command that it then names; or let `trivox "
            "plan` plan for the machine as it is now, and train that under another name=..."
        )

    def _why_slow(self) -> str:
        if self.device.type != "cpu":
            return ""
        passed_s = time.monotonic() - self._began
        taken_s = taken_by_others_s() - self._taken_before_s
        share = taken_s / max(passed_s * torch.get_num_threads(), 1e-9)
        if share <= MOST_WAITING:
            return ""
        return (
            f"Its threads waited {min(share, 1):.0%} of the time for a core: more runs here than "
            "there are cores, so end what else does. "
        )


def taken_by_others_s() -> float:
    """Return how long threads of this process waited for a core that not even its children had."""
    own = psutil.Process()
    children_s = 0.0
    for child in own.children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.Error:  # It ended meanwhile, or may not be looked at.
            continue
        children_s += times.user + times.system
    return waited_s() - children_s
