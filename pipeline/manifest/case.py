"""What describes a data set: its channels, labels, codes and cases.

DICOM segmentations say in codes what each segment is. A manifest gives them by label name; a model
carries them from there.

Source: DICOM PS3.3 8.8 (Basic Code Sequence Macro: the lengths), C.8.20.4 (Segment Description
Macro); PS3.16 CID 7150 (categories), CID 7151 (types), CID 244 (laterality).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.manifest.scheme import DEFAULT_SCHEMES, Modality, Scheme
from pipeline.study import StudyConfig, case_name, source_files

_SHORT = r"^[^\\\s](?:[^\\\r\n]{0,14}[^\\\s])?$"
_LONG = r"^[^\\\s](?:[^\\\r\n]{0,62}[^\\\s])?$"


class Code(BaseModel):
    """A concept of a terminology; in YAML also written `[value, scheme, meaning]`.

    Attributes:
        value: What the terminology calls it, such as `"10200004"`; at most 16 characters.
        scheme: The terminology's designator in DICOM, such as `"SCT"` for SNOMED CT.
        meaning: For people to read, such as `"Liver"`; at most 64 characters.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: str = Field(pattern=_SHORT, description="What the terminology calls the concept.")
    scheme: str = Field(pattern=_SHORT, description="Its designator in DICOM, such as SCT.")
    meaning: str = Field(pattern=_LONG, description="The concept, for people to read.")

    @model_validator(mode="before")
    @classmethod
    def _from_three_parts(cls, given: object) -> object:
        if isinstance(given, list | tuple):
            if len(given) != 3:
                raise ValueError("should be [value, scheme, meaning]")
            given = dict(zip(("value", "scheme", "meaning"), given, strict=True))
        # YAML reads the digits of a SNOMED CT code as a number; a code is text.
        if isinstance(given, dict) and type(given.get("value")) is int:
            given = given | {"value": str(given["value"])}
        return given


ANATOMICAL_STRUCTURE = Code(value="123037004", scheme="SCT", meaning="Anatomical Structure")


class SegmentCode(BaseModel):
    """What a label stands for.

    Attributes:
        category: The kind of thing that it is, of CID 7150.
        type: What it is, of CID 7151 where one fits.
        type_modifier: Which of several, such as left or right.
        region: Where in the body a thing lies that is no part of it, such as a lesion.
        region_modifier: Which side of that region.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    category: Code = Field(default=ANATOMICAL_STRUCTURE, description="The kind of thing.")
    type: Code = Field(description="What it is.")
    type_modifier: Code | None = Field(default=None, description="Such as left or right.")
    region: Code | None = Field(default=None, description="Where in the body it lies.")
    region_modifier: Code | None = Field(default=None, description="Which side of the region.")

    @model_validator(mode="after")
    def _a_side_is_of_something(self) -> "SegmentCode":
        if self.region_modifier is not None and self.region is None:
            raise ValueError("region_modifier needs a region")
        return self


SplitName = Literal["train", "validation", "test"]

_CT_WORD = re.compile(r"CT|CTA|CTPA|CECT|NCCT|LDCT", re.IGNORECASE)
_MR_WORD = re.compile(r"(MR|T1|T2|FLAIR|DWI|DTI|ADC|PD|SWI|DCE|HBV|MPRAGE).*", re.IGNORECASE)


@dataclass(frozen=True)
class Channel:
    """One channel of every study.

    Attributes:
        name: What the data set calls it, such as `"T1"`.
        modality: What it shows: only CT has Hounsfield units.
        normalisation: How its intensities are normalised, if that was said.
    """

    name: str
    modality: Modality
    normalisation: Scheme | None = None

    @property
    def scheme(self) -> Scheme:
        """How its intensities are normalised: as was said, or as is usual for the modality."""
        return self.normalisation or DEFAULT_SCHEMES[self.modality]


@dataclass(frozen=True)
class Region:
    """A structure made of several labels, which may overlap other regions.

    Attributes:
        name: What the data set calls it, such as `"tumour core"`.
        labels: Names of the labels that it is made of; never empty.
        writes: The label, one of `labels`, that a mask holds where this region is the last found.
    """

    name: str
    labels: tuple[str, ...]
    writes: str


@dataclass(frozen=True)
class Case:
    """One study of a data set, by its files.

    Attributes:
        name: Unique in the manifest, and usable as a file name.
        images: One file per channel, in the manifest's order, or one file that holds them all.
        label: The reference label map, if there is one.
        subject: The patient; cases of one subject never lie on both sides of a split.
        split: Where the data set puts the case, if it says so.
        sha256: Of all files of the images, one after the other in the order of `source_files`, as
            lower-case hexadecimal text.
        annotated: Names of the labels that the case's label map draws wherever they are; of the
            others it says nothing, and their voxels are background in it. None if it draws all.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | None
    subject: str
    split: SplitName | None = None
    sha256: str | None = None
    annotated: tuple[str, ...] | None = None

    def stamps(self) -> list[tuple[str, int, int]]:
        """Return path, size in bytes and time of change of all files of the images and the label.

        Raises:
            StudyError: If one of them is no volume, so that its files are not known.
        """
        sources = (*self.images, *([] if self.label is None else [self.label]))
        files = [file for source in sources for file in source_files(source)]
        return [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]


@dataclass(frozen=True)
class Manifest:
    """A data set: where it comes from, what its files hold, and its cases.

    Attributes:
        path: The file that the manifest was read from.
        name: Name of the data set.
        description: What it shows.
        origin: Who made it, or where it was published.
        licence: The terms it may be used under.
        channels: In the order in which a network sees them; never empty.
        labels: Foreground label names and their values (from 1); 0 is background and not listed.
            Empty where the source does not name them (a bare CSV).
        cases: In the order of the source; never empty, names unique.
        ignore_value: Label value of voxels that nobody annotated, if the data set has any.
        regions: Structures to learn in place of the labels, empty for the labels themselves. In a
            mask, later ones overwrite earlier ones.
        codes: What labels stand for in the codes of a terminology, of those that have one.
        study: How its studies are read.
    """

    path: Path
    name: str
    description: str
    origin: str
    licence: str
    channels: tuple[Channel, ...]
    labels: Mapping[str, int]
    cases: tuple[Case, ...]
    ignore_value: int | None = None
    regions: tuple[Region, ...] = ()
    codes: Mapping[str, SegmentCode] = field(default_factory=dict)
    study: StudyConfig = field(default_factory=StudyConfig)

    @property
    def label_values(self) -> list[int]:
        """Label value of each class index: background 0 first, then by value."""
        return [0, *sorted(self.labels.values())]

    @property
    def region_classes(self) -> tuple[tuple[int, ...], ...]:
        """Class indices that each region is made of."""
        index_of = {value: index for index, value in enumerate(self.label_values)}
        return tuple(
            tuple(index_of[self.labels[name]] for name in region.labels) for region in self.regions
        )

    def annotates(self, case: Case) -> tuple[bool, ...]:
        """Tell of each foreground class, by label value, whether `case` annotates it."""
        names = sorted(self.labels, key=self.labels.__getitem__)
        return tuple(case.annotated is None or name in case.annotated for name in names)


def guess_modality(text: str) -> Modality:
    """Tell the modality from a channel's name, such as `"CT"`, `"T1w"` or `"mp-MRI"`.

    Returns:
        `"CT"` if a word of `text` says CT, else `"MR"` if one names MRI or an MR sequence, else
        `"other"`.
    """
    words = re.findall(r"[a-z0-9]+", text.lower())
    if any(_CT_WORD.fullmatch(word) for word in words):
        return "CT"
    return "MR" if any(_MR_WORD.fullmatch(word) for word in words) else "other"


def name_case(images: tuple[Path, ...]) -> str:
    """Return the name of a case that its source does not name: that of its first image file."""
    name = case_name(images[0])
    return name.removesuffix("_0000") if len(images) > 1 else name
