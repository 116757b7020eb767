"""Where the round trip keeps its things in the output folder, and who may use them.

    out/.trivox/journal.sqlite    what became of each series
    out/.trivox/incoming/<study>  what was pulled, while it is needed
    out/.trivox/archive.lock      held by the run that uses them

All hold identifiers, and are open to their owner only.
"""

import fcntl
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.journal import ARCHIVE_LOCK, JOURNAL, PRIVATE
from pipeline.system.ownership import set_aside
from pipeline.system.private import check_private, make_private_folder, open_own

_PULLED = re.compile(r"\d{5}\.dcm")
"""Names that pulled files get."""


def remove_pulled(path: Path) -> None:
    """Remove a folder of pulled files, as far as it can be; what else lies there is set aside."""
    for each in (*sorted(path.rglob("*"), reverse=True), path):
        with suppress(OSError):
            if each.is_dir() and not each.is_symlink():
                each.rmdir()
            elif _PULLED.fullmatch(each.name):
                each.unlink()
            elif os.path.lexists(each):
                set_aside(each)


@dataclass(frozen=True)
class WorkFolders:
    """The folders of one output folder.

    Attributes:
        out: The output folder.
    """

    out: Path

    @property
    def journal(self) -> Path:
        """The SQLite file."""
        return self.out / JOURNAL

    @property
    def incoming(self) -> Path:
        """Pulled studies."""
        return self.out / PRIVATE / "incoming"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folders, open to their owner only, and keep other runs out until the end.

        The lock goes with the process, however that ends.

        Raises:
            ConfigError: If they cannot be written to, or another run holds them.
        """
        # Here, since it brings all that segmenting needs.
        from pipeline.output.places import make_output_folder

        make_output_folder(self.out)
        make_private_folder(self.out)
        self.incoming.mkdir(mode=0o700, exist_ok=True)
        check_private(self.incoming)
        with os.fdopen(open_own(self.out / ARCHIVE_LOCK, os.O_RDWR | os.O_CREAT), "r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                remedy = "Wait for it, or choose another folder with --out."
                raise ConfigError(self.out, "another run works in this folder", remedy) from None
            yield

    def remove(self, name: str) -> None:
        """Remove what was pulled of a study."""
        remove_pulled(self.incoming / name)

    def remove_others(self, names: Collection[str]) -> None:
        """Remove what earlier runs pulled, but for these studies."""
        for folder in self.incoming.iterdir():
            if folder.name not in names:
                self.remove(folder.name)
