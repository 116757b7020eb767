"""Where the results of a refinement go, and that they overwrite nothing that was given."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.ownership import check_free, set_aside

MASK_SUFFIX = ".nii.gz"


@dataclass(frozen=True)
class Outputs:
    """The files that one refinement leaves.

    Attributes:
        mask: The refined mask.
        picture: Slices with both masks drawn over the image; None if it is not wanted.
        replace: Whether what lies there is set aside; else it is refused.
    """

    mask: Path
    picture: Path | None = None
    replace: bool = False

    @property
    def record(self) -> Path:
        """Where the mask came from; written last, so it marks a finished refinement."""
        return self.mask.with_name(self.mask.name[: -len(MASK_SUFFIX)] + ".json")

    def all(self) -> tuple[Path, ...]:
        """Every file that is written, the record first."""
        picture = () if self.picture is None else (self.picture,)
        return self.record, self.mask, *picture

    def check(self, inputs: Sequence[Path]) -> None:
        """Make sure that the files can have their names.

        Raises:
            ConfigError: If one is of the wrong kind, or an input, or another output, or lies there
                already.
        """
        name = self.mask.name.lower()
        if not name.endswith(MASK_SUFFIX) or name == MASK_SUFFIX:
            remedy = f"Masks are NIfTI: give a file such as refined{MASK_SUFFIX}."
            raise ConfigError(self.mask, f"does not end in {MASK_SUFFIX}", remedy)
        if self.picture is not None and self.picture.suffix.lower() != ".png":
            raise ConfigError(self.picture, "does not end in .png", "Pictures are PNG files.")
        for output in self.all():
            if output.is_dir():
                raise ConfigError(output, "is a folder", "Name a file.")
            if any(_is_same(output, given) for given in inputs):
                found = "is an input, which would be overwritten"
                raise ConfigError(output, found, "Choose another name with --out or --picture.")
        check_free(self.all(), replace=self.replace)

    def make_way(self) -> None:
        """Set aside what lies there, the record first: no mask lies beside that of another."""
        for output in self.all():
            if os.path.lexists(output):
                set_aside(output)


def _is_same(one: Path, other: Path) -> bool:
    if one.resolve() == other.resolve():
        return True
    return one.exists() and other.exists() and one.samefile(other)
