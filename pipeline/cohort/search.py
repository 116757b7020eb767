"""Find the files in a folder and all below it, and say what could not be looked into."""

import errno
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.journal import ARCHIVE_LOCK, JOURNAL
from pipeline.private import PRIVATE
from pipeline.study import VOLUME_SUFFIXES

_OF_A_RUN = (JOURNAL, ARCHIVE_LOCK, f"{PRIVATE}/salt")
"""What a run of `segment` or `pacs` leaves in the folder that it writes to."""

_RESULT = re.compile(r".*_(d?seg|probabilities|probseg|report)\.(nii\.gz|dcm)")
"""What such a run calls its masks, probabilities and DICOM files."""

_NOT_THERE = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR)


@dataclass(frozen=True)
class Search:
    """What lies below a folder.

    Attributes:
        files: In the order of their paths. Links to volumes that are gone are among them, so that
            reading says so.
        unreadable: Folders that cannot be looked into: studies may be in them.
        links: Links among the files, and to folders, that lead out of the folder.
        gone: Links of other names whose files are not there.
        special: Pipes, sockets and devices.
        num_passed: Number of masks and the like in output folders of earlier runs, which are not
            among the files.
        num_skipped: Number of other volumes in the folder that was to be left out.
    """

    files: Sequence[Path]
    unreadable: Sequence[Path]
    links: Sequence[Path] = ()
    gone: Sequence[Path] = ()
    special: Sequence[Path] = ()
    num_passed: int = 0
    num_skipped: int = 0


def search_folder(folder: Path, skipped: Path | None = None, *, follow: bool = True) -> Search:
    """Search a folder and all below it, without hidden files and folders and earlier outputs.

    Links to folders elsewhere are followed, as cohorts are often made of such links; each folder is
    searched once, whatever links lead to it. In a folder below that a run of `segment` or `pacs`
    wrote to, what has the name of a result is passed over; images may lie beside it.

    Args:
        folder: Where to begin.
        skipped: A folder to leave out, with all below it.
        follow: Whether to look into folders that links lead out to.
    """
    walk = _Walk(
        Path(os.path.realpath(folder)), skipped and Path(os.path.realpath(skipped)), follow
    )
    files = sorted(walk.files(folder))
    links, gone, special = map(sorted, (walk.links, walk.gone, walk.special))
    unreadable = sorted(walk.unreadable)
    return Search(files, unreadable, links, gone, special, walk.num_passed, walk.num_skipped)


def is_volume(path: Path) -> bool:
    """Tell whether a file is a volume by its name."""
    return path.name.lower().endswith(VOLUME_SUFFIXES)


def leads_out(path: Path, root: Path) -> bool:
    """Tell whether a file lies elsewhere than below a folder, whose links are resolved."""
    return not Path(os.path.realpath(path)).is_relative_to(root)


@dataclass
class _Walk:
    root: Path
    skipped: Path | None
    follow: bool
    unreadable: list[Path] = field(default_factory=list)
    seen: set[Path] = field(default_factory=set)
    links: list[Path] = field(default_factory=list)
    gone: list[Path] = field(default_factory=list)
    special: list[Path] = field(default_factory=list)
    outputs: set[Path] = field(default_factory=set)
    num_passed: int = 0
    num_skipped: int = 0

    def files(self, folder: Path) -> Iterator[Path]:
        if self._is_skipped(self.root):
            return
        for text, below, names in os.walk(folder, onerror=self._note, followlinks=True):
            here = Path(text)
            # What is pruned here is not walked into.
            below[:] = sorted(name for name in below if self._is_to_search(here / name))
            paths = [here / name for name in names if not name.startswith(".")]
            if not self.outputs.isdisjoint((here, *here.parents)):
                num_all = len(paths)
                paths = [path for path in paths if not _RESULT.fullmatch(path.name)]
                self.num_passed += num_all - len(paths)
            try:
                yield from [path for path in paths if self._is_file(path)]
            except PermissionError:
                # It can be listed, but not entered.
                self.unreadable.append(here)

    def _is_file(self, path: Path) -> bool:
        """Tell whether a name is to be looked at; note a link that leads out, or nowhere.

        Raises:
            PermissionError: If not even the name can be looked at.
        """
        is_link = stat.S_ISLNK(path.lstat().st_mode)
        if is_link and leads_out(path, self.root):
            self.links.append(path)
        try:
            mode = path.stat().st_mode
        except OSError as error:
            # Of a volume, reading says what is wrong.
            if is_volume(path) or not is_link or error.errno not in _NOT_THERE:
                return True
            self.gone.append(path)
            return False
        if not stat.S_ISREG(mode):
            self.special.append(path)
        return stat.S_ISREG(mode)

    def _is_skipped(self, real: Path) -> bool:
        return self.skipped is not None and real.is_relative_to(self.skipped)

    def _is_to_search(self, folder: Path) -> bool:
        if folder.name.startswith("."):
            return False
        real = Path(os.path.realpath(folder))
        if self._is_skipped(real):
            self.num_skipped += _count_volumes(real)
            return False
        if folder.is_symlink() and (self._is_found_anyway(real) or self.root.is_relative_to(real)):
            # The second leads round in a circle.
            return False
        is_new = real not in self.seen
        self.seen.add(real)
        if not is_new:
            return False
        if folder.is_symlink() and not real.is_relative_to(self.root):
            self.links.append(folder)
            if not self.follow:
                return False
        if is_output(real):
            self.outputs.add(folder)
        return True

    def _is_found_anyway(self, real: Path) -> bool:
        if not real.is_relative_to(self.root):
            return False
        return not any(part.startswith(".") for part in real.relative_to(self.root).parts)

    def _note(self, error: OSError) -> None:
        self.unreadable.append(Path(error.filename))


def is_output(folder: Path) -> bool:
    """Tell whether a run of `segment` or `pacs` wrote to a folder."""
    return any(os.path.lexists(folder / trace) for trace in _OF_A_RUN)


def _count_volumes(folder: Path) -> int:
    """Count volumes that are no results."""
    return sum(
        is_volume(Path(name)) and not name.startswith(".") and not _RESULT.fullmatch(name)
        for text, _, names in os.walk(folder)
        for name in names
        if PRIVATE not in Path(text).parts
    )
