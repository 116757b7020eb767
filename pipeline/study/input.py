"""One study to segment: its files, and what of its names may be shown.

Source:
    Brain Imaging Data Structure 1.10, https://bids-specification.readthedocs.io: "Entities", and
    "Imaging data types" of derivatives (`<source_entities>[_seg-<label>]..._dseg.nii.gz`).
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.errors import StudyError
from pipeline.study.dicom import DicomSeries, Source
from pipeline.study.study import case_name

NIFTI_ENDINGS = (".nii.gz", ".nii")

_NAME = re.compile(
    r"(?P<entities>sub-[A-Za-z0-9+]+(_[a-z]+-[A-Za-z0-9+]+)*)_(?P<suffix>[A-Za-z0-9]+)"
)
_AFTER_SEGMENTATION = ("scale", "res", "den", "label")
"""Entities that stand behind `seg` in a name, before `desc`."""

_SEGMENTED_DATATYPES = ("anat", "func", "dwi")
"""Folders in which BIDS knows segmentations; those of other images lie in `anat`."""

Entities = tuple[tuple[str, str], ...]
"""Keys and labels in the order of the file name, such as `(("sub", "01"), ("run", "2"))`."""


@dataclass(frozen=True)
class BidsName:
    """The name of an image in a BIDS data set.

    Attributes:
        entities: What tells it from other images; the subject first.
        suffix: What it shows, such as `"T1w"`.
        datatype: The folder that it lies in, such as `"anat"`.
    """

    entities: Entities
    suffix: str
    datatype: str

    @classmethod
    def parse(cls, path: Path) -> "BidsName | None":
        """Return what a file's name says, or None if it is not made as BIDS says."""
        for ending in NIFTI_ENDINGS:
            if path.name.endswith(ending):
                break
        else:
            return None
        found = _NAME.fullmatch(path.name.removesuffix(ending))
        if found is None:
            return None
        pairs = (word.partition("-") for word in found["entities"].split("_"))
        entities = tuple((key, label) for key, _, label in pairs)
        return cls(entities, found["suffix"], path.parent.name)

    @property
    def stem(self) -> str:
        """The file's name without its ending."""
        return "_".join([*_spelled(self.entities), self.suffix])

    @property
    def folder(self) -> Path:
        """Where a segmentation of the image lies in a derivative, relative to its root."""
        named = dict(self.entities)
        session = [f"ses-{named['ses']}"] if "ses" in named else []
        datatype = self.datatype if self.datatype in _SEGMENTED_DATATYPES else "anat"
        return Path(f"sub-{named['sub']}", *session, datatype)

    @property
    def derived_stem(self) -> str:
        """What the files of a segmentation of the image begin with.

        All entities of the image stay but `desc`, which says that the files are Trivox's. What the
        image shows, and what its own `desc` was, are the label of `seg`: the segmentations of a
        T1w and a T2w image of one subject have different names.
        """
        kept = [pair for pair in self.entities if pair[0] not in ("desc", "seg")]
        last = [pair for pair in kept if pair[0] in _AFTER_SEGMENTATION]
        named = dict(self.entities)
        label = f"{named.get('seg', '')}{named.get('desc', '')}{self.suffix}"
        first = [pair for pair in kept if pair not in last]
        return "_".join(_spelled((*first, ("seg", label), *last, ("desc", "trivox"))))


def _spelled(entities: Entities) -> list[str]:
    return [f"{key}-{label}" for key, label in entities]


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
