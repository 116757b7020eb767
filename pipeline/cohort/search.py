"""Find the files in a folder and all below it, and say what could not be looked into."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.study import VOLUME_SUFFIXES


@dataclass(frozen=True)
class Search:
    """What lies below a folder.

    Attributes:
        files: In the order of their paths. Links to volumes that are gone are among them, so that
            reading says so.
        unreadable: Folders that cannot be looked into: studies may be in them.
    """

    files: Sequence[Path]
    unreadable: Sequence[Path]


def search_folder(folder: Path, skipped: Path | None = None) -> Search:
    """Search a folder and all below it, without hidden files and folders.

    Links to folders elsewhere are followed, as cohorts are often made of such links; each folder is
    searched once, whatever links lead to it.

    Args:
        folder: Where to begin.
        skipped: A folder to leave out, with all below it.
    """
    walk = _Walk(Path(os.path.realpath(folder)), skipped and Path(os.path.realpath(skipped)))
    files = sorted(walk.files(folder))
    return Search(files, sorted(walk.unreadable))


def is_volume(path: Path) -> bool:
    """Tell whether a file is a volume by its name."""
    return path.name.lower().endswith(VOLUME_SUFFIXES)


@dataclass
class _Walk:
    root: Path
    skipped: Path | None
    unreadable: list[Path] = field(default_factory=list)
    seen: set[Path] = field(default_factory=set)

    def files(self, folder: Path) -> Iterator[Path]:
        if self._is_skipped(self.root):
            return
        for text, below, names in os.walk(folder, onerror=self._note, followlinks=True):
            here = Path(text)
            # What is pruned here is not walked into.
            below[:] = sorted(name for name in below if self._is_to_search(here / name))
            paths = [here / name for name in names if not name.startswith(".")]
            try:
                yield from [path for path in paths if path.is_file() or _is_gone(path)]
            except PermissionError:
                # It can be listed, but not entered.
                self.unreadable.append(here)

    def _is_skipped(self, real: Path) -> bool:
        return self.skipped is not None and real.is_relative_to(self.skipped)

    def _is_to_search(self, folder: Path) -> bool:
        if folder.name.startswith("."):
            return False
        real = Path(os.path.realpath(folder))
        if self._is_skipped(real):
            return False
        if folder.is_symlink() and (self._is_found_anyway(real) or self.root.is_relative_to(real)):
            # The second leads round in a circle.
            return False
        is_new = real not in self.seen
        self.seen.add(real)
        return is_new

    def _is_found_anyway(self, real: Path) -> bool:
        if not real.is_relative_to(self.root):
            return False
        return not any(part.startswith(".") for part in real.relative_to(self.root).parts)

    def _note(self, error: OSError) -> None:
        self.unreadable.append(Path(error.filename))


def _is_gone(path: Path) -> bool:
    return is_volume(path) and path.is_symlink() and not path.exists()
