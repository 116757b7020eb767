"""One training on several processes, as torchrun or srun starts them, and how it is stopped.

Each process (rank) learns from its slice of every batch; gradients are averaged, so all ranks hold
the same weights at all times. Rank 0, the main one, writes the files. Whatever steers a run (the
loss, the time used, a request to stop) is agreed between the ranks after each iteration, on GPUs
after every few, so that no rank runs ahead or waits for one that has left.

Batch Dice of a slice is not quite the slice's part of the Dice of the batch: several ranks minimise
the mean of their Dice losses, as every framework's data-parallel training does.
"""

import logging
import os
import signal
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType

import ignite.distributed as idist
import psutil
import torch
import torch.distributed as dist

from pipeline.errors import ConfigError, TrainingError
from pipeline.inference import choose_device, choose_kind
from pipeline.system.progress import CONSOLE

logger = logging.getLogger(__name__)


@contextmanager
def on_stop_signal(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` at the first SIGINT or SIGTERM; a second one ends the process as usual.

    Outside the main thread signals cannot be caught, and nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def handle(number: int, _: FrameType | None) -> None:
        logger.warning("%s: stopping after this step", signal.Signals(number).name)
        restore()
        stop()

    for number in previous:
        signal.signal(number, handle)
    try:
        yield
    finally:
        restore()


JOIN_TIMEOUT = timedelta(minutes=30)
"""For ranks to find each other, and to bring their gradients together."""

WAIT_TIMEOUT = timedelta(days=30)
"""For ranks that wait while the main one preprocesses or validates. A rank that dies closes its
connections, which ends the others' waiting at once; so this need not be short."""


class RankLostError(TrainingError):
    """Another process of this training ended, or cannot be reached any more."""


@dataclass(frozen=True)
class Ranks:
    """The processes of one training, seen from one of them. A lone process is rank 0 of 1.

    Attributes:
        device: That this rank computes on.
        rank: Number of this process, from 0.
        world_size: Number of processes.
        group: Joins them on the CPU, for small numbers and for waiting; None for a lone process.
        pids: Process number of each rank.
        hosts: Checksum of each rank's host name.
    """

    device: torch.device
    rank: int = 0
    world_size: int = 1
    group: dist.ProcessGroup | None = None
    pids: tuple[int, ...] = ()
    hosts: tuple[int, ...] = ()

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files, log lines and results."""
        return self.rank == 0

    def share_of(self, batch_size: int) -> int:
        """Return how many patches of a batch each rank learns from.

        Raises:
            ConfigError: If the ranks would get different numbers.
        """
        if batch_size % self.world_size:
            found = f"{batch_size} patches cannot be shared out over {self.world_size} processes"
            remedy = f"Use a multiple of {self.world_size}, or start another number of processes."
            raise ConfigError("training.batch_size", found, remedy)
        return batch_size // self.world_size

    def sum_over_ranks(self, *values: float) -> tuple[float, ...]:
        """Return each of `values` summed over the ranks; the same on all of them.

        Raises:
            RankLostError: If a rank ended.
        """
        if self.group is None:
            return values
        totals = torch.tensor(values, dtype=torch.float64)
        with self._readable():
            dist.all_reduce(totals, group=self.group)
        return tuple(totals.tolist())

    def from_main(self, *values: float) -> tuple[float, ...]:
        """Return the main rank's `values` on all ranks; waits for it as long as it takes.

        Raises:
            RankLostError: If a rank ended.
        """
        return self.sum_over_ranks(*(value if self.is_main else 0.0 for value in values))

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Let the main rank run the block; the others run it when that is done.

        Raises:
            RankLostError: If a rank ended, for example since the block failed there.
        """
        if not self.is_main:
            self.sum_over_ranks(0.0)
        yield
        if self.is_main:
            self.sum_over_ranks(0.0)

    def average_gradients(self, network: torch.nn.Module) -> None:
        """Replace each gradient by its mean over the ranks.

        One buffer for all, not DistributedDataParallel: parameters may be frozen and thawed while
        training, and a lost rank shows here and not somewhere within backward. A GPU does this
        later, without the process waiting; there a lost rank shows when the ranks next meet on the
        CPU (`sum_over_ranks`), which they do before they wait for their GPUs.

        Raises:
            RankLostError: If a rank ended.
        """
        if self.group is None:
            return
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        with self._readable():
            dist.all_reduce(flat)
        flat /= self.world_size
        parts = torch.split_with_sizes(flat, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # gloo has no type of its own; torch's derive from this one
            lost = self._find_lost()
            who = f"rank {lost} of {self.world_size}" if lost is not None else "another rank"
            remedy = (
                "The lines above tell why, unless something killed it, as the system does when "
                "memory runs out. Go on with --resume."
            )
            found = f"{who} ended and took the training down"
            raise RankLostError(f"rank {self.rank}", found, remedy) from error

    def _find_lost(self) -> int | None:
        """Return the first rank on this machine whose process is gone."""
        # Its connections close a little before it is gone.
        for _ in range(10):
            for rank, (pid, host) in enumerate(zip(self.pids, self.hosts, strict=True)):
                if host == self.hosts[self.rank] and not _is_running(pid):
                    return rank
            time.sleep(0.1)
        return None


@contextmanager
def distributed(device: str) -> Iterator[Ranks]:
    """Join the processes that were started together; a process that was started alone stays so.

    From then on only the main rank shows progress, results and log lines below errors.

    Args:
        device: auto, cpu or cuda: each process takes the GPU of its number on its machine. A lone
            process may take cuda:N.

    Raises:
        ConfigError: If there is no such device.
        TrainingError: If the processes cannot join.
    """
    if not _is_launched():
        yield Ranks(choose_device(device))
        return
    if device.startswith("cuda:"):
        found = f"{device!r} is one GPU, but several processes were started"
        raise ConfigError("device", found, "Use auto or cuda: each process takes its own GPU.")
    # Each rank looks at its own GPU only: a look takes memory there.
    chosen = choose_kind(device)
    try:
        idist.initialize("nccl" if chosen.type == "cuda" else "gloo", timeout=JOIN_TIMEOUT)
        ranks = _meet(chosen)
    except (RuntimeError, ValueError) as error:
        remedy = (
            "Check that the same command runs on all machines, that they reach each other, and "
            "that each process sees all GPUs of its machine (srun: --gpus-per-node)."
        )
        lines = str(error).splitlines() or [type(error).__name__]
        raise TrainingError("distributed training", f"cannot start: {lines[0]}", remedy) from error
    can_leave = True
    try:
        if not ranks.is_main:
            _be_quiet()
        yield ranks
        # A launcher ends all processes as soon as one has gone with an exit code that is not 0.
        ranks.sum_over_ranks(0.0)
    except RankLostError:
        # Its GPU may wait for the lost rank for ever; to take leave would be to wait for the GPU.
        can_leave = chosen.type != "cuda"
        raise
    finally:
        if can_leave:
            idist.finalize()


def _is_launched() -> bool:
    """Whether torchrun, or srun with several tasks, started this process."""
    if dist.is_torchelastic_launched():
        return True
    # What srun says about the step; ignite reads the rest. A batch script's own shell has none.
    return int(psutil.Process().environ().get("SLURM_STEP_NUM_TASKS", "1")) > 1


def _meet(device: torch.device) -> Ranks:
    if device.type == "cuda":
        device = torch.device("cuda", idist.get_local_rank())
    group = dist.new_group(backend="gloo", timeout=WAIT_TIMEOUT)
    rank, world_size = idist.get_rank(), idist.get_world_size()
    table = torch.zeros(2, world_size, dtype=torch.int64)
    table[0, rank] = os.getpid()
    table[1, rank] = zlib.crc32(socket.gethostname().encode())
    dist.all_reduce(table, group=group)
    pids, hosts = (tuple(row) for row in table.tolist())
    return Ranks(device, rank, world_size, group, pids, hosts)


def _be_quiet() -> None:
    """Leave progress, results and all but errors to the main rank.

    Not undone: a process stays the rank that it was started as.
    """
    logging.getLogger("pipeline").setLevel(logging.ERROR)
    CONSOLE.quiet = True


def _is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
