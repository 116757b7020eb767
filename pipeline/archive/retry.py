"""Ask again what failed for a moment; tell one study's trouble from an archive that is gone."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pipeline.archive.transport import (
    Archive,
    Attributes,
    HiccupError,
    InstanceKey,
    Landing,
    SeriesKey,
    TransferError,
)
from pipeline.errors import ArchiveError

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")


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
        self._archive, self._patience = archive, patience

    @property
    def name(self) -> str:
        """How errors name it."""
        return self._archive.name

    def check(self) -> None:
        """Make sure that it answers, now."""
        try:
            self._archive.check()
        except HiccupError as error:
            remedy = "Check the address, and that the archive runs and lets this machine in."
            raise ArchiveError(self.name, error.found, remedy) from None

    def find_studies(self, filters: Attributes) -> list[Attributes]:
        """As `Archive.find_studies`."""
        return self._insist(lambda: self._archive.find_studies(filters))

    def find_series(self, study_uid: str, filters: Attributes) -> list[Attributes]:
        """As `Archive.find_series`."""
        return self._insist(lambda: self._archive.find_series(study_uid, filters))

    def find_instances(self, series: SeriesKey) -> frozenset[str]:
        """As `Archive.find_instances`."""
        return self._insist(lambda: self._archive.find_instances(series))

    def has(self, instance: InstanceKey) -> bool:
        """As `Archive.has`."""
        return self._insist(lambda: self._archive.has(instance))

    def pull_series(self, series: SeriesKey, landing: Landing) -> None:
        """Retrieve what comes at the first try: what is missing is to be asked for singly."""
        try:
            self._archive.pull_series(series, landing)
        except HiccupError as error:
            logger.debug("%s: %s", self.name, error.found)

    def pull_instance(self, instance: InstanceKey, landing: Landing) -> None:
        """As `Archive.pull_instance`."""
        self._insist(lambda: self._archive.pull_instance(instance, landing))

    def push(self, instance: InstanceKey, path: Path) -> None:
        """Store an instance unless it is there: it may be, although an answer got lost."""
        self._insist(
            lambda: None if self._archive.has(instance) else self._archive.push(instance, path)
        )

    def stored_pixels(self, instance: InstanceKey) -> str | None:
        """As `Archive.stored_pixels`."""
        return self._insist(lambda: self._archive.stored_pixels(instance))

    def close(self) -> None:
        """Let go of connections."""
        self._archive.close()

    def _insist(self, ask: Callable[[], Answer]) -> Answer:
        for wait_s in self._patience.waits_s:
            try:
                return ask()
            except HiccupError as error:
                logger.info("%s: %s; trying again in %g s", self.name, error.found, wait_s)
                time.sleep(wait_s)
        try:
            return ask()
        except HiccupError as error:
            raise self._after_the_last(error) from None

    def _after_the_last(self, error: HiccupError) -> ArchiveError:
        tries = f"after {self._patience.tries} tries"
        try:
            self._archive.check()
        except ArchiveError as gone:
            remedy = "What was done is kept: run the same command when the archive is back."
            return ArchiveError(self.name, f"{gone.found}, {tries}", remedy)
        return TransferError(self.name, f"{error.found}, {tries}", error.remedy)
