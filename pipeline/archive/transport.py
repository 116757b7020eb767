"""What the rest asks of an archive, whichever way it is spoken to, and the names of things in it.

UIDs identify patients to whoever has the archive, so the keys here do not show them when printed.
"""

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol, TypeAlias

from pipeline.errors import ArchiveError

Attributes: TypeAlias = Mapping[str, str]
"""What an archive says of a study or series: text by DICOM keyword, several values with a \\."""

SERIES_FIELDS = ("Modality", "NumberOfSeriesRelatedInstances")
"""What is asked of each series, beside its UID."""

MAX_ANSWERS = 1_000_000
"""Results of one search; an archive that gives more is taken for one that never ends."""

MAX_INSTANCE_BYTES = 4 << 30
"""Of one instance, as it is sent: the standard's lengths go no further."""

_UID = re.compile(r"[0-9][0-9.]{0,63}")
"""Old ones are not quite valid; a path of points would lead elsewhere."""


class HiccupError(ArchiveError):
    """Something that may pass: no connection, an answer that is cut or makes no sense."""


class BusyError(HiccupError):
    """The archive says that it is busy: nothing was taken or given.

    Args:
        where: The archive.
        found: What it says.
        remedy: What the user can do.
        wait_s: What it asks us to wait, in seconds.
    """

    def __init__(self, where: object, found: str, remedy: str, wait_s: float = 0) -> None:
        super().__init__(where, found, remedy)
        self.wait_s = wait_s


class TransferError(ArchiveError):
    """One study or instance cannot be transferred; the others may."""


@dataclass(frozen=True)
class SeriesKey:
    """Where a series is in an archive.

    Attributes:
        study_uid: Study Instance UID.
        series_uid: Series Instance UID.
    """

    study_uid: str = field(repr=False)
    series_uid: str = field(repr=False)


@dataclass(frozen=True)
class InstanceKey:
    """Where an instance is in an archive.

    Attributes:
        study_uid: Study Instance UID.
        series_uid: Series Instance UID.
        instance_uid: SOP Instance UID.
    """

    study_uid: str = field(repr=False)
    series_uid: str = field(repr=False)
    instance_uid: str = field(repr=False)


class Landing(Protocol):
    """Where pulled instances are put."""

    def file(self) -> AbstractContextManager[BinaryIO]:
        """Give a new file to write one instance to, in the DICOM file format."""
        ...


class Archive(Protocol):
    """A DICOM archive. Its calls raise `HiccupError` for what may pass when tried again.

    What concerns one study or instance is a `TransferError`, all else an `ArchiveError`. None
    names a UID or a value of a query.
    """

    @property
    def name(self) -> str:
        """How errors name it."""
        ...

    def check(self) -> None:
        """Make sure that it answers."""
        ...

    def find_studies(self, filters: Attributes) -> list[Attributes]:
        """Return StudyInstanceUID and the attributes asked for, of the studies that match."""
        ...

    def find_series(self, study_uid: str, filters: Attributes) -> list[Attributes]:
        """Return SeriesInstanceUID, `SERIES_FIELDS` and the attributes asked for."""
        ...

    def find_instances(self, series: SeriesKey) -> list[str]:
        """Return the SOP Instance UIDs of a series, as they are listed: one may be twice."""
        ...

    def has(self, instance: InstanceKey) -> bool:
        """Say whether an instance is there."""
        ...

    def pull_series(self, series: SeriesKey, landing: Landing) -> None:
        """Retrieve all instances of a series."""
        ...

    def pull_instance(self, instance: InstanceKey, landing: Landing) -> None:
        """Retrieve one instance."""
        ...

    def push(self, instance: InstanceKey, path: Path) -> None:
        """Store the instance that a DICOM file holds."""
        ...

    def stored_pixels(self, instance: InstanceKey) -> str | None:
        """Return the hash of what was stored as `pixels_sha256` does; None: it is not to be had."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


def checked_uid(text: str, where: str) -> str:
    """Return a UID that an archive gave, if it can be one: it becomes part of addresses.

    Raises:
        TransferError: If it has other characters than digits and points, or more than 64.
    """
    if _UID.fullmatch(text) is None:
        raise TransferError(where, "it gave a UID that is none", "Ask who runs the archive.")
    return text
