"""What the archive's round trip asks of whatever segments the studies that it pulls."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

Outcome: TypeAlias = Literal["done", "rejected", "failed"]


@dataclass(frozen=True)
class Result:
    """What became of one series of a study.

    Attributes:
        case: Its name in the output folder; identifies no patient.
        series_uid: Its Series Instance UID.
        status: `done`; `rejected`, if the input is to blame; `failed`, if anything else is.
        reason: Why it was not done; no patient data.
        products: DICOM files to store in the archive.
    """

    case: str
    series_uid: str = field(repr=False)
    status: Outcome
    reason: str = ""
    products: tuple[Path, ...] = ()


class SegmentFolder(Protocol):
    """Segments a study: chooses among its series and returns a result for each that it looked at.

    Called again with the same study, after an interruption, it returns the same products: those
    that are complete are not made anew, since a new one would be another object to the archive.
    """

    def __call__(self, folder: Path) -> list[Result]:
        """Segment the study in a folder, which has a folder of DICOM files for each series."""
        ...
