"""How a number spreads over the training cases, and what is outside of it."""

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict


class Spread(BaseModel):
    """Smallest, median and largest value of a number over the training cases."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lowest: float
    middle: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Describe some values, at least one."""
        lowest, middle, highest = np.quantile(np.asarray(values, np.float64), [0, 0.5, 1])
        return cls(
            lowest=_shortened(lowest), middle=_shortened(middle), highest=_shortened(highest)
        )

    def widened(self, slack: float, floor: float = 0.0) -> "Spread":
        """Return the spread with `slack` times its width, at least `floor`, added on each side."""
        more = max(slack * (self.highest - self.lowest), floor)
        return Spread(lowest=self.lowest - more, middle=self.middle, highest=self.highest + more)

    def holds(self, value: float) -> bool:
        """Tell whether a value lies within."""
        return self.lowest <= value <= self.highest


def _shortened(value: float) -> float:
    """Six digits: nobody reads more, and the fingerprint is kept as text."""
    return float(f"{value:.6g}")
