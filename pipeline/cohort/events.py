"""What those who segment studies tell the one who keeps the journal."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from pipeline.journal import Row, Stage
from pipeline.study.input import StudyInput

SHOWN_STEPS = 20
"""From this many windows or class groups on, a study has a progress bar of its own."""


@dataclass(frozen=True)
class Began:
    """A study entered a stage; of several devices, `device` says on which it is."""

    case: str
    stage: Stage
    device: str = ""


@dataclass(frozen=True)
class Steps:
    """How far the study that is being segmented is."""

    what: str
    done: int
    total: int


@dataclass(frozen=True)
class Alive:
    """Something that took a while is done: whoever says so does not hang."""


@dataclass(frozen=True)
class Lost:
    """Studies whose worker ended before they did, whichever of them was to blame."""

    cases: tuple[str, ...]
    reason: str


Event: TypeAlias = Began | Steps | Alive | Lost | Row


class Workers(Protocol):
    """Who segments studies: this process, another one, or a cluster."""

    @property
    def capacity(self) -> int:
        """How many studies it takes at once, those that wait included."""

    def give(self, study: StudyInput) -> None:
        """Take one more study."""

    def wait(self) -> Sequence[Event]:
        """Return what happened since the last call; wait for it if nothing did."""

    def close(self) -> Sequence[Event]:
        """Finish what is being written, drop the rest, and return what still happened."""
