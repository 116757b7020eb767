"""Gather the files of what the user named, and note what is not looked at, and why."""

import logging
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.cohort.naming import hashed_name
from pipeline.cohort.search import Search, search_folder
from pipeline.cohort.study_input import StudyInput
from pipeline.errors import ConfigError
from pipeline.study import VOLUME_SUFFIXES

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
