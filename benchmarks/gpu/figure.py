"""What a part measures: figures that are declared before, and given one by one; nothing heavy."""

import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """A figure that a part will measure; until then it stands in the page as "not run".

    Attributes:
        name: Unique in the part: letters, digits and underscores.
        what: What it is, in a sentence without a full stop.
        unit: Of its value; empty for ratios, counts and words.
        least: Target: the value is to be at least that.
        most: Target: the value is to be at most that.
        is_proof: Whether the part is wrong, and the exit code 1, where a target is missed.
    """

    name: str
    what: str
    unit: str = ""
    least: float | None = None
    most: float | None = None
    is_proof: bool = False

    def is_met(self, value: float | str | None) -> bool:
        """Tell whether a value is within the targets; what is no number has none."""
        if value is None or isinstance(value, str):
            return True
        # NaN is in no bounds.
        above = self.least is None or value >= self.least
        return above and (self.most is None or value <= self.most)


@dataclass(frozen=True)
class Measured:
    """The value of a figure.

    Attributes:
        name: Of the figure.
        value: Number or words; None if it cannot be measured here, and `note` says why.
        note: How it came about, in a line.
    """

    name: str
    value: float | str | None
    note: str = ""


@dataclass(frozen=True)
class Context:
    """What a part works with.

    Attributes:
        device: Name of the device: `cuda`, `cuda:1`, `cpu`.
        tiny: Whether to do everything with data so small that it takes seconds on a CPU.
        deadline: By `time.monotonic`, when the part should have ended; it is killed soon after.
        work: An empty folder for its files, removed afterwards.
        hippocampus: Folder of the hippocampus data in the Decathlon's layout, where it is at hand.
    """

    device: str
    tiny: bool
    deadline: float
    work: Path
    hippocampus: Path | None

    @property
    def left_s(self) -> float:
        """Seconds left; to be looked at before each figure that takes long."""
        return self.deadline - time.monotonic()
