"""Which cases a model was trained on, told by salted hashes that name nobody.

Whoever holds an image can ask whether a model was trained on it; nobody can read from a model what
its cases are, or compare it with lists of hashes from elsewhere.
"""

import hashlib
from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict


class TrainingCases(BaseModel):
    """The cases of one training.

    Attributes:
        salt: Put before the content of each case; it follows from all of them, so that the same
            training gives the same model.
        hashes: Of each case, sorted; none where the cases are not known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    salt: str
    hashes: tuple[str, ...]

    @classmethod
    def of(cls, contents: Iterable[str]) -> "TrainingCases":
        """Keep what tells the cases with these contents, each a hash of voxels."""
        ordered = sorted(set(contents))
        salt = hashlib.sha256("\n".join(ordered).encode()).hexdigest()[:32]
        return cls(salt=salt, hashes=tuple(sorted(_salted(salt, each) for each in ordered)))

    def holds(self, content: str) -> bool:
        """Tell whether a case with this content is among them."""
        return _salted(self.salt, content) in self.hashes


UNKNOWN = TrainingCases(salt="", hashes=())
"""Stands for the cases of a training of which nothing was kept."""


def _salted(salt: str, content: str) -> str:
    return hashlib.sha256(f"{salt}:{content}".encode()).hexdigest()[:32]
