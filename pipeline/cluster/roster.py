"""Which workers there are, and which of them can do what the run asks for."""

import logging
import time
from collections.abc import Collection

from pipeline.errors import PipelineError

logger = logging.getLogger(__name__)

REMIND_EVERY_S = 60.0
"""How often the log says that there is no worker."""


class Roster:
    """The workers of a run, by address.

    Args:
        patience_s: How long there may be none.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._awaited: set[str] = set()
        self._ready: set[str] = set()
        self._refused: dict[str, str] = {}
        self._dismissed: set[str] = set()
        self._last_seen = self._reminded_at = time.monotonic()

    @property
    def ready(self) -> Collection[str]:
        """Those that can take studies."""
        return self._ready

    def update(self, present: Collection[str]) -> tuple[list[str], list[str]]:
        """Take note of who is there; return those who came and those who are gone."""
        known = self._awaited | self._ready | set(self._refused) | self._dismissed
        came = [worker for worker in present if worker not in known]
        gone = [worker for worker in known if worker not in present]
        self._awaited |= set(came)
        for worker in gone:
            self._forget(worker)
        return came, gone

    @property
    def busy(self) -> Collection[str]:
        """Those that are being prepared."""
        return self._awaited

    def is_awaited(self, worker: str) -> bool:
        """Tell whether a worker is being prepared."""
        return worker in self._awaited

    def accept(self, worker: str) -> None:
        """Take note that a worker is ready."""
        self._awaited.discard(worker)
        self._ready.add(worker)
        logger.info("%d worker%s ready", len(self._ready), "s" * (len(self._ready) > 1))

    def refuse(self, worker: str, reason: str) -> None:
        """Take note that a worker gets no studies."""
        if worker in self._refused:
            return
        self._forget(worker)
        self._refused[worker] = reason
        logger.warning("a worker cannot take part: %s", reason)

    def dismiss(self, worker: str) -> None:
        """Take note that a worker hangs: it gets no studies, but others may come."""
        self._forget(worker)
        self._dismissed.add(worker)

    def check(self) -> None:
        """Raise a `PipelineError` if there is no worker and none can be hoped for."""
        now = time.monotonic()
        if self._ready or self._awaited:
            self._last_seen = self._reminded_at = now
            return
        if self._refused:
            reason = next(reversed(self._refused.values()))
            remedy = "Then run the same command again: it goes on from here."
            raise PipelineError("no worker can take part", reason, remedy)
        if now - self._last_seen > self._patience_s:
            found = f"there has been none for {self._patience_s / 60:.0f} minutes"
            remedy = "Start some and run the same command: it goes on from here."
            raise PipelineError("the cluster's workers", found, remedy)
        if now - self._reminded_at > REMIND_EVERY_S:
            self._reminded_at = now
            logger.warning("no worker yet; waiting for one")

    def _forget(self, worker: str) -> None:
        self._awaited.discard(worker)
        self._ready.discard(worker)
        self._refused.pop(worker, None)
        self._dismissed.discard(worker)
