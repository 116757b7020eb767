"""What the rest asks of an archive, whichever way it is spoken to, and asking again.

UIDs identify patients to whoever has the archive, so the keys here do not show them when printed.
"""

import logging
import re
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol, TypeAlias, TypeVar

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


logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

MAX_WAIT_S = 60.0
"""An archive that asks us to wait for longer is asked again after so long."""

_LISTING_WAITS = 120
_MOST_UNCLEAR = 3
"""How often an instance is sent whose answer was lost, and which then is not listed."""


@dataclass(frozen=True)
class Patience:
    """How long to wait for an archive.

    Attributes:
        tries: How often to ask in all.
        first_wait_s: Seconds before the second try; each further wait is twice as long.
    """

    tries: int = 6
    first_wait_s: float = 1.0

    @property
    def listing_s(self) -> float:
        """Seconds in which an archive should list what it took: 120 by default."""
        return _LISTING_WAITS * self.first_wait_s

    @property
    def waits_s(self) -> list[float]:
        """Seconds before each further try."""
        return [self.first_wait_s * 2**index for index in range(self.tries - 1)]


class PatientArchive:
    """An archive that asks again after a `HiccupError`, and never raises one.

    After the last try it raises a `TransferError` if the archive still answers, so that only what
    was asked for is in trouble, and else an `ArchiveError`: then nothing more can be done.

    Args:
        archive: To ask.
        patience: How often.
    """

    def __init__(self, archive: Archive, patience: Patience) -> None:
        self._archive, self.patience = archive, patience
        self._hurried = threading.Event()
        self.last_trouble = ""

    @property
    def name(self) -> str:
        """How errors name it."""
        return self._archive.name

    def check(self) -> None:
        """Make sure that it answers, now; one that says that it is busy is waited for.

        Raises:
            ArchiveError: If it does not.
        """
        try:
            self._ask(self._archive.check, BusyError)
        except HiccupError as error:
            remedy = "Check the address, and that the archive runs and lets this machine in."
            raise ArchiveError(self.name, error.found, remedy) from None

    def hurry(self) -> None:
        """Let whoever waits for it in another thread wait no longer: the run ends."""
        self._hurried.set()

    def wait(self, seconds: float) -> None:
        """Let it be for a while."""
        self._hurried.wait(seconds)

    def find_studies(self, filters: Attributes) -> list[Attributes]:
        """As `Archive.find_studies`."""
        return self._insist(lambda: self._archive.find_studies(filters))

    def find_series(self, study_uid: str, filters: Attributes) -> list[Attributes]:
        """As `Archive.find_series`."""
        return self._insist(lambda: self._archive.find_series(study_uid, filters))

    def find_instances(self, series: SeriesKey) -> list[str]:
        """As `Archive.find_instances`."""
        return self._insist(lambda: self._archive.find_instances(series))

    def has(self, instance: InstanceKey) -> bool:
        """As `Archive.has`."""
        return self._insist(lambda: self._archive.has(instance))

    def pull_series(self, series: SeriesKey, landing: Landing) -> None:
        """Retrieve what comes at the first try: what is missing is to be asked for singly."""
        self.last_trouble = ""
        try:
            self._archive.pull_series(series, landing)
        except ArchiveError as error:
            # Those that are asked for singly will tell whether the archive is gone.
            logger.debug("%s: %s", self.name, error.found)
            self.last_trouble = error.found

    def pull_instance(self, instance: InstanceKey, landing: Landing) -> None:
        """As `Archive.pull_instance`."""
        self._insist(lambda: self._archive.pull_instance(instance, landing))

    def push(self, instance: InstanceKey, path: Path) -> None:
        """Store an instance that is not there.

        If an answer gets lost, it may be there nevertheless: it is sent again only if it is then
        not listed for as long as all waits together.
        """
        for number in range(1, _MOST_UNCLEAR + 1):
            try:
                return self._ask(lambda: self._archive.push(instance, path), BusyError)
            except HiccupError as error:
                if self._is_listed_soon(instance):
                    return None
                if number == _MOST_UNCLEAR:
                    raise self._after_the_last(error) from None
            except TransferError:
                raise
            except ArchiveError as error:
                raise self._after_the_last(error) from None
        return None

    def stored_pixels(self, instance: InstanceKey) -> str | None:
        """As `Archive.stored_pixels`."""
        return self._insist(lambda: self._archive.stored_pixels(instance))

    def close(self) -> None:
        """Let go of connections."""
        self._archive.close()

    def _is_listed_soon(self, instance: InstanceKey) -> bool:
        for wait_s in self.patience.waits_s:
            if self.has(instance):
                return True
            self.wait(wait_s)
        return self.has(instance)

    def _insist(self, ask: Callable[[], Answer]) -> Answer:
        try:
            return self._ask(ask, HiccupError)
        except TransferError:
            raise
        except ArchiveError as error:
            raise self._after_the_last(error) from None

    def _ask(self, ask: Callable[[], Answer], may_pass: type[HiccupError]) -> Answer:
        """Ask until there is an answer, or a trouble of another kind, or the tries are used up."""
        for least_s in self.patience.waits_s:
            try:
                return ask()
            except may_pass as error:
                asked_s = error.wait_s if isinstance(error, BusyError) else 0.0
                wait_s = min(max(least_s, asked_s), MAX_WAIT_S)
                logger.info("%s: %s; trying again in %g s", self.name, error.found, wait_s)
                self.wait(wait_s)
        return ask()

    def _after_the_last(self, error: ArchiveError) -> ArchiveError:
        """Return what a trouble means that stays: is it the question's, or the archive gone?"""
        tries = f", after {self.patience.tries} tries" * isinstance(error, HiccupError)
        try:
            self._ask(self._archive.check, HiccupError)
        except ArchiveError as gone:
            remedy = "What was done is kept: run the same command when the archive is back."
            if type(gone) is ArchiveError:
                remedy = f"{gone.remedy} What was done is kept."
            return ArchiveError(self.name, f"{gone.found}{tries}", remedy)
        return TransferError(self.name, f"{error.found}{tries}", error.remedy)
