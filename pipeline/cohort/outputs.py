"""Where the results of a study lie."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.journal import PRIVATE
from pipeline.report import OutputKind


@dataclass(frozen=True)
class Outputs:
    """The files that one study can leave in the output folder.

    Attributes:
        folder: The output folder.
        case: The study's name.
    """

    folder: Path
    case: str

    @property
    def mask(self) -> Path:
        """The label map."""
        return self.folder / f"{self.case}_seg.nii.gz"

    @property
    def provenance(self) -> Path:
        """Where the mask came from; written last, so it marks a finished study."""
        return self.folder / f"{self.case}_seg.json"

    @property
    def probabilities(self) -> Path:
        """The class probabilities."""
        return self.folder / f"{self.case}_probabilities.nii.gz"

    @property
    def picture(self) -> Path:
        """Slices of the study with the mask drawn over them."""
        return self.folder / f"{self.case}_seg.png"

    def path(self, kind: OutputKind) -> Path:
        """Return the file of one kind of output."""
        match kind:
            case "mask":
                return self.mask
            case "probabilities":
                return self.probabilities
            case "picture":
                return self.picture

    def all(self) -> tuple[Path, ...]:
        """Every file that may exist, the provenance first."""
        return self.provenance, self.mask, self.probabilities, self.picture

    def remove(self) -> None:
        """Remove what an earlier run left, the provenance first.

        Killed in between, what is left has no provenance and is not taken for a result.
        """
        for path in self.all():
            path.unlink(missing_ok=True)


def make_output_folder(out: Path) -> None:
    """Make sure before any work that results can be written.

    Raises:
        ConfigError: If they cannot.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / PRIVATE).mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        found = f"cannot be written to ({error.strerror})"
        raise ConfigError(out, found, "Choose another folder with --out.") from error
