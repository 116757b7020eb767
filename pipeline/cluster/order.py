"""What goes between the run and a worker of its cluster, besides studies and rows."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from pipeline import __version__
from pipeline.cohort import RemoteJob
from pipeline.journal import Row


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
