"""The folder that a manifest's paths start from, and that they stay in."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ManifestError

_REMEDY = (
    "Name the folder that holds all data (data.root=FOLDER; for `trivox segment`, --root FOLDER), "
    "or permit this: --allow-outside."
)


@dataclass(frozen=True)
class DataFolder:
    """Where the data of a manifest lies.

    A manifest from elsewhere must not make anybody read, and report on, other files than those of
    its data set.

    Attributes:
        path: The folder.
        allow_outside: Whether files may lie elsewhere.
    """

    path: Path
    allow_outside: bool = False

    def locate(self, name: str | Path, where: object) -> Path:
        """Return the path of a file that a manifest names.

        Args:
            name: Relative to the folder, or absolute.
            where: The row or key that names it, for errors.

        Raises:
            ManifestError: If the file is outside the folder, by `..`, as an absolute path or by a
                symbolic link, and that is not allowed.
        """
        path = self.path / name
        if not self.allow_outside and not self._holds(path):
            raise ManifestError(where, "a path leads out of the data folder", _REMEDY)
        return path

    def _holds(self, path: Path) -> bool:
        try:
            return path.resolve().is_relative_to(self.path.resolve())
        except (OSError, RuntimeError, ValueError):
            # Links that lead in a circle, or a name that no file can have.
            return False
