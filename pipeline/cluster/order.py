"""What goes between the run and a worker of its cluster, besides studies and rows."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from pipeline import __version__
from pipeline.cluster.config import AddressConfig, ClusterConfig, LocalConfig
from pipeline.cohort import RemoteJob
from pipeline.journal import Row
from pipeline.main_memory import available_bytes

_OF_MEMORY = 0.9
"""Of what a worker may take; at 95 % it is ended."""


@dataclass(frozen=True)
class Order:
    """What a run wants of each worker.

    Attributes:
        run: The run's name, and the topic that the worker reports under.
        remote: What to do, with which model.
        witness: A file in the output folder, which a worker sees only if it has the same folder.
        threads: To compute with.
        num_gpus: That the workers share in turn; 0: each computes on the device that `remote` says.
        log_level: Of what the run wants to hear.
        version: Of Trivox where the run is.
    """

    run: str
    remote: RemoteJob
    witness: Path
    threads: int
    num_gpus: int
    log_level: int
    version: str = __version__


def make_order(
    run: str, witness: Path, remote: RemoteJob, config: ClusterConfig, log_level: int
) -> Order:
    """Return what a run wants of each worker of a cluster."""
    num_gpus = config.gpus if isinstance(config, LocalConfig) else 0
    remote = _within_memory(remote, config)
    return Order(run, remote, witness, config.threads, num_gpus, log_level)


def _within_memory(remote: RemoteJob, config: ClusterConfig) -> RemoteJob:
    """Let a worker refuse a study by name rather than be ended because of it."""
    limit = None
    if not isinstance(config, AddressConfig) and config.memory_bytes is not None:
        limit = round(_OF_MEMORY * config.memory_bytes)
    elif isinstance(config, LocalConfig):
        limit = round(_OF_MEMORY * available_bytes() / config.workers)
    options = remote.request.options
    limits = [each for each in (limit, options.max_bytes) if each is not None]
    options = replace(options, max_bytes=min(limits, default=None))
    return replace(remote, request=replace(remote.request, options=options))


@dataclass(frozen=True)
class Unfit:
    """A worker cannot take part: why, and what would help."""

    reason: str


@dataclass(frozen=True)
class Broken:
    """Something went wrong with all that a worker had in hand."""

    reason: str


Answer: TypeAlias = Row | Unfit | Broken | None
"""What became of a study at a worker; None: it was dropped."""
