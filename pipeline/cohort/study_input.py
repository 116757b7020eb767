"""One study to segment, and what of its names may be shown."""

import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.cohort.bids_name import BidsName
from pipeline.study import case_name

_LONGEST_REASON = 400


@dataclass(frozen=True)
class StudyInput:
    """One study to segment.

    Attributes:
        case: Its name in all outputs, unique among the studies found together.
        paths: One file per channel, or one file that holds all channels; a DICOM folder.
        refusal: Why it cannot be segmented, if that is known from the files' names already.
        bids: Its place in a BIDS data set, if it comes from one: its outputs form a derivative.
    """

    case: str
    paths: tuple[Path, ...]
    refusal: str | None = None
    bids: BidsName | None = None

    def shown_name(self, index: int) -> str:
        """Return the name for the `index`-th file in outputs.

        It is the file's own, unless a manifest gave the study a name that does not show it: the
        file may then be called by the patient. In a BIDS data set, names are pseudonyms.
        """
        path = self.paths[index]
        stem = case_name(path)
        if self.bids or stem in self.case or stem == f"{self.case}_{index:04d}":
            return path.name
        return f"{self.case}_{index:04d}{path.name[len(stem) :]}"

    def anonymous(self, text: str) -> str:
        """Return `text` without the folders and other names of the study's files."""
        for index, path in enumerate(self.paths):
            text = without_folder(text, path.parent)
            text = text.replace(path.name, self.shown_name(index))
        return text


def without_folder(text: str, folder: Path) -> str:
    """Leave the names of files in `folder` only: folders can hold patients' names."""
    for name in {str(folder), str(folder.absolute())} - {"."}:
        text = re.sub(rf"(?<![\w./-]){re.escape(name)}/", "", text)
    return text


def one_line(text: str) -> str:
    """Return a text as a cell of a table can hold it."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]}..."
