"""What a user asks of a cohort's segmentation, beside the masks."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.cohort.outputs import Outputs
from pipeline.report import OutputKind


@dataclass(frozen=True)
class SegmentOptions:
    """What to write beside masks and provenance, and what it may take.

    Attributes:
        probabilities: Write the class probabilities.
        pictures: Write a picture of each mask.
        max_bytes: Of main memory that the process may take; None: all that is free.
    """

    probabilities: bool = False
    pictures: bool = False
    max_bytes: int | None = None

    @property
    def kinds(self) -> list[OutputKind]:
        """What is written for each study."""
        kinds: dict[OutputKind, bool] = {
            "mask": True,
            "probabilities": self.probabilities,
            "picture": self.pictures,
        }
        return [kind for kind, is_wanted in kinds.items() if is_wanted]

    def wanted(self, outputs: Outputs) -> dict[OutputKind, Path]:
        """Return the files that a study must have, besides its provenance."""
        return {kind: outputs.path(kind) for kind in self.kinds}
