"""How much time a search has left, and what its next step will take."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf

LEAST_S = 60.0
SHARE = 0.15
"""Of a training's time, what choosing its post-processing may take; or `LEAST_S`, if longer."""


def seconds_allowed(trained_s: float) -> float:
    """Return how long post-processing may be chosen at the end of a training, in seconds."""
    return max(LEAST_S, SHARE * trained_s)


class OutOfTimeError(Exception):
    """Something that was begun cannot be finished in the time that is left."""

    def __init__(self, needed_s: float) -> None:
        super().__init__(f"about {needed_s:.0f} s more are needed")


class Clock:
    """The time that is left, and a prediction of what things take by what they took.

    Args:
        max_seconds: From now on; None for any time.
    """

    def __init__(self, max_seconds: float | None = None) -> None:
        self._started = time.monotonic()
        self.max_seconds = max_seconds
        self._aside_s = 0.0
        self._rates: dict[str, float] = {}

    @property
    def spent_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    @property
    def left_s(self) -> float:
        """Seconds left; infinite without a bound, never negative."""
        if self.max_seconds is None:
            return inf
        return max(0.0, self.max_seconds - self._aside_s - self.spent_s)

    def set_aside(self, share: float) -> None:
        """Keep a share of all time for what comes at the end."""
        self._aside_s = share * (self.max_seconds or 0.0)

    def watch(self) -> Callable[[str, int, int], None]:
        """Return what is to be called with what is done, the number of steps done, and of all.

        It raises `OutOfTimeError` as soon as it is seen that the steps cannot be finished.
        """
        first: list[tuple[float, int]] = []

        def advance(_what: str, done: int, total: int) -> None:
            now = time.monotonic()
            if not first:  # Which is slower than those that follow, and is not counted.
                first.append((now, done))
                return
            needed_s = (now - first[0][0]) / max(done - first[0][1], 1) * (total - done)
            if needed_s > self.left_s:
                raise OutOfTimeError(needed_s)

        return advance

    @contextmanager
    def timing(self, what: str, size: int) -> Iterator[None]:
        """Note what something took, for its size."""
        begun = time.monotonic()
        yield
        self._rates[what] = (time.monotonic() - begun) / max(size, 1)

    def expected_s(self, what: str, size: int) -> float:
        """Return what something will take: as it did last, for its size.

        What was never done takes as long as the mean of its kind, whose names begin alike up to a
        space; nothing if none is known. The first of all is slower than those that follow.
        """
        if what not in self._rates:
            kind = what.split(" ")[0]
            alike = [rate for name, rate in self._rates.items() if name.split(" ")[0] == kind]
            return size * sum(alike) / len(alike) if alike else 0.0
        return size * self._rates[what]
