"""One study to segment, and what of its names may be shown."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.cohort.bids_name import BidsName
from pipeline.errors import StudyError
from pipeline.study import DicomSeries, Source, case_name

_LONGEST_FOREIGN = 400
_LONGEST_END = 150


@dataclass(frozen=True)
class StudyInput:
    """One study to segment.

    Attributes:
        case: Its name in all outputs, unique among the studies found together.
        sources: One file or DICOM series per channel, or one file that holds all channels. Of a
            refused study, all that it could have meant.
        refusal: Why it cannot be segmented, if that is known from names and headers already.
        bids: Its place in a BIDS data set, if it comes from one: its outputs form a derivative.
    """

    case: str
    sources: tuple[Source, ...]
    refusal: str | None = None
    bids: BidsName | None = None

    @property
    def first_file(self) -> Path:
        """The file, or one of the files, of the first source."""
        first = self.sources[0]
        return first.files[0] if isinstance(first, DicomSeries) else first

    def absolute(self) -> "StudyInput":
        """Return the study with paths that hold in any folder."""
        sources = (
            replace(s, files=tuple(path.absolute() for path in s.files))
            if isinstance(s, DicomSeries)
            else s.absolute()
            for s in self.sources
        )
        return replace(self, sources=tuple(sources))

    def files(self) -> tuple[Path, ...]:
        """Return all files of its sources, as far as they are named."""
        return tuple(
            path for s in self.sources for path in (s.files if isinstance(s, DicomSeries) else (s,))
        )

    def places(self) -> list[str]:
        """Return where each source lies: its file, or the folder of its series."""
        return [
            str(s.files[0].parent.absolute() if isinstance(s, DicomSeries) else s.absolute())
            for s in self.sources
        ]

    def shown_name(self, index: int) -> str:
        """Return the name for the `index`-th source in outputs.

        It is the file's own, unless a manifest gave the study a name that does not show it: the
        file may then be called by the patient. In a BIDS data set, names are pseudonyms; a DICOM
        series is called by the case.
        """
        source = self.sources[index]
        if isinstance(source, DicomSeries):
            return self.case if len(self.sources) == 1 else f"{self.case}_{index:04d}"
        stem = case_name(source)
        if self.bids or stem in self.case or stem == f"{self.case}_{index:04d}":
            return source.name
        return f"{self.case}_{index:04d}{source.name[len(stem) :]}"

    def nameless(self, text: str) -> str:
        """Return what was found about the study without its name in front, which is said before."""
        return text.removeprefix(f"{self.case}: ")

    def anonymous(self, text: str) -> str:
        """Return `text` without the folders and other names of the study's files."""
        for index, source in enumerate(self.sources):
            if isinstance(source, DicomSeries):
                text = _without_series(text, source, self.shown_name(index))
            else:
                text = without_folder(text, source.parent)
                text = text.replace(source.name, self.shown_name(index))
        return text


def _without_series(text: str, series: DicomSeries, shown: str) -> str:
    """Leave out paths and UIDs of a series; names of its files can be mere numbers, as in text."""
    for path in series.files:
        for name in {str(path), str(path.absolute())}:
            text = text.replace(name, shown)
    for folder in {path.parent for path in series.files}:
        text = without_folder(text, folder)
    return text.replace(series.uid, shown).replace(series.study_uid or series.uid, shown)


def without_folder(text: str, folder: Path) -> str:
    """Leave the names of files in `folder` only: folders can hold patients' names."""
    for name in {str(folder), str(folder.absolute())} - {"."}:
        text = re.sub(rf"(?<![\w./-]){re.escape(name)}/", "", text)
    return text


def one_line(text: str) -> str:
    """Return a text as a cell of a table can hold it.

    Our own stays whole, since its last sentence says what to do; of a long one that is no sentence,
    an error's of a library, begin and end stay.
    """
    line = " ".join(text.split())
    if len(line) <= _LONGEST_FOREIGN or line.endswith("."):
        return line
    return f"{line[: _LONGEST_FOREIGN - _LONGEST_END]}... {line[-_LONGEST_END:]}"


def unreadable(name: str, error: Exception) -> StudyError:
    """Return what to say of a study, or of one of its files, that the system cannot read."""
    found = error.strerror if isinstance(error, OSError) else None
    text = one_line(found or str(error) or type(error).__name__)
    return StudyError(
        name, f"cannot be read ({text})", "Check its files, their names and the disk."
    )
