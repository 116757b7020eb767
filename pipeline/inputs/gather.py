"""Find the files of what the user named, and note what is not looked at, and why."""

import errno
import logging
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.errors import ConfigError, StudyError
from pipeline.inputs.naming import hashed_name
from pipeline.journal import ARCHIVE_LOCK, JOURNAL
from pipeline.study import VOLUME_SUFFIXES, DicomSeries, source_files
from pipeline.study.input import StudyInput
from pipeline.system.private import PRIVATE

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


REMEDY = "Put the files themselves there, or leave out --no-links."


def refuse_links(study: StudyInput, root: Path, listed: Sequence[Path] = ()) -> StudyInput:
    """Return a study, refused if one of its files is a link that leads out of a folder.

    Args:
        study: The study.
        root: The folder that was named.
        listed: What a manifest names, which may lie elsewhere itself.
    """
    found = "a link leads out of the input folder"
    places = {root, *(path if path.is_dir() else path.parent for path in listed)}
    return _refused_outside(study, _files(study), places, f"{found}. {REMEDY}")


def refuse_outside(study: StudyInput, root: Path, listed: Sequence[Path]) -> StudyInput:
    """Return a study of a manifest, refused if one of its files lies out of the data folder.

    The manifest's own paths were looked at; these are files that its headers and folders name.

    Args:
        study: The study.
        root: Where the manifest, or its data, lies.
        listed: What the manifest names.
    """
    found = "some of its files lie out of the data folder, behind a link"
    places = {root, *(path if path.is_dir() else path.parent for path in listed)}
    files = (path for path in _files(study) if path not in listed)
    remedy = "Put them there, or permit it: --allow-outside."
    return _refused_outside(study, files, places, f"{found}. {remedy}")


def refused_folders(folders: Iterable[Path], salt: bytes) -> Iterator[StudyInput]:
    """Yield a refused study for each link to a folder that is not followed."""
    for folder in folders:
        name = hashed_name(salt, str(folder.absolute()), kind="folder")
        refusal = f"a folder is a link that leads out of the input folder. {REMEDY}"
        yield StudyInput(name, (folder,), refusal)


def _refused_outside(
    study: StudyInput, files: Iterable[Path], places: Iterable[Path], refusal: str
) -> StudyInput:
    if study.refusal is not None:
        return study
    real = [Path(os.path.realpath(place)) for place in places]
    is_out = any(all(leads_out(path, place) for place in real) for path in files)
    return replace(study, refusal=refusal) if is_out else study


def _files(study: StudyInput) -> Iterator[Path]:
    """Yield all files that reading a study opens, as far as they are known."""
    for source in study.sources:
        yield from source.files if isinstance(source, DicomSeries) else (source,)
        if isinstance(source, DicomSeries):
            continue
        try:
            yield from source_files(source)[1:]
        except (StudyError, OSError, ValueError):
            # Reading it will say what is wrong.
            continue


logger = logging.getLogger(__name__)


@dataclass
class Gathered:
    """Files of folders, and files that were named.

    Attributes:
        out: The output folder, which is never searched; None if there is none.
        follow: Whether links that lead out of a folder are followed.
        files: Each file, by its absolute path.
        roots: The folder that a file was found in, or that of a named file.
        named: Files that were named.
        special: Pipes, sockets and devices.
        links: Links that lead out of the folder, to files and folders.
        unreadable: Folders that cannot be looked into.
    """

    out: Path | None
    follow: bool
    files: dict[Path, Path] = field(default_factory=dict)
    roots: dict[Path, Path] = field(default_factory=dict)
    named: set[Path] = field(default_factory=set)
    special: list[Path] = field(default_factory=list)
    links: set[Path] = field(default_factory=set)
    unreadable: list[Path] = field(default_factory=list)
    _searched: dict[Path, Search] = field(default_factory=dict)

    def add_file(self, path: Path) -> None:
        """Add a file that was named."""
        if not stat.S_ISREG(path.stat().st_mode):
            self.special.append(path)
        self._add(path, path.parent)
        self.named.add(path)

    def add_folder(self, folder: Path) -> None:
        """Search a folder.

        Raises:
            ConfigError: If it cannot be read.
        """
        skipped = self.out if self.out is not None and _is_below(self.out, folder) else None
        search = search_folder(folder, skipped, follow=self.follow)
        if folder in search.unreadable:
            raise ConfigError(folder, "the folder cannot be read", "Check its permissions.")
        for path in (*search.files, *search.gone, *search.special):
            self._add(path, folder)
        self.special += search.special
        self._searched[folder] = search
        self._note(search)

    def look_into(self, folder: Path) -> Search:
        """Search a folder without adding its files."""
        search = search_folder(folder, follow=self.follow)
        self._note(search)
        return search

    def _note(self, search: Search) -> None:
        """Note what of a folder is not looked at, and which links lead out of it."""
        self.unreadable += search.unreadable
        self.links |= set(search.links)
        if search.num_passed:
            logger.warning(
                "%d results of earlier runs were passed over; name their folder itself to have "
                "them looked at",
                search.num_passed,
            )
        if search.num_skipped:
            logger.warning(
                "%d volumes lie in the output folder, which is not searched: to have them "
                "segmented, choose another --out",
                search.num_skipped,
            )

    def tell_links(self) -> None:
        """Say in one line how many links lead out of the folders, where they are followed."""
        if self.links and self.follow:
            logger.info(
                "%d links lead out of the input folder (%d of them to folders) and are followed; "
                "--no-links refuses them",
                len(self.links),
                sum(path.is_dir() for path in self.links),
            )

    def check_found(self, found: set[Path]) -> None:
        """Make sure that there is something to do in each folder.

        Args:
            found: Files that are studies or belong to some.

        Raises:
            ConfigError: If there is not.
        """
        for folder, search in self._searched.items():
            seen = {*search.files, *search.gone, *search.special}
            refused = () if self.follow else search.links
            if seen & found or search.unreadable or refused:
                continue
            remedy = f"Name volumes ({', '.join(VOLUME_SUFFIXES)}), or a folder that has some."
            if self.out is not None and folder.resolve() == self.out.resolve():
                remedy = "The output folder is not searched: choose another one with --out."
            elif search.num_passed:
                remedy = "Results of earlier runs are passed over."
            raise ConfigError(folder, "no studies found in this folder", remedy)

    def unreadable_studies(self, salt: bytes) -> Iterator[StudyInput]:
        """Stand for whatever is in folders that cannot be read, so that it is not forgotten."""
        refusal = (
            "a folder cannot be read, and what is in it is not known. Check its permissions; "
            "`trivox status OUT --sources` tells which it is."
        )
        for folder in self.unreadable:
            name = hashed_name(salt, str(folder.absolute()), kind="folder")
            yield StudyInput(name, (folder,), refusal)

    def _add(self, path: Path, root: Path) -> None:
        key = path.absolute()
        self.files.setdefault(key, path)
        self.roots.setdefault(key, root)


def _is_below(path: Path, folder: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
