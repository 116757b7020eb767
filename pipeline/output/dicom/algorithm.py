"""How DICOM outputs are written: settings, what made the labels, what segments are called.

Segments are numbered from 1 in the order of label values. Each names its label (SegmentLabel) and
its label's value (SegmentDescription); its tracking identifier is the same wherever this model
segments this series.

Source: DICOM PS3.3 C.8.20.2 (SegmentAlgorithmType), C.8.20.4 (Segment Description Macro), PS3.5 B.2
(UIDs derived from a UUID), PS3.5 6.2 (lengths of texts); RFC 4122 4.3 (name-based UUIDs).
"""

import hashlib
import logging
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from pipeline import __version__
from pipeline.manifest import ANATOMICAL_STRUCTURE, Code, SegmentCode

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription
    from highdicom.sr import CodedConcept

    from pipeline.model import Model

LARGEST_SERIES_NUMBER = 2**31 - 2
"""One less than an Integer String (IS) holds: the report takes the number after the first."""


class DicomOutputConfig(BaseModel):
    """How DICOM outputs are written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["binary", "labelmap"] = Field(
        default="binary",
        description="binary: one bit a voxel and segment, which every archive takes; labelmap: "
        "one number a voxel (DICOM Supplement 243), smaller, but older archives refuse it.",
    )
    compression: Literal["none", "rle", "jpeg-ls"] = Field(
        default="rle",
        description="Lossless compression of labelmaps; binary ones are never compressed. jpeg-ls "
        "makes smaller files than rle, but some tools for segmentations refuse it.",
    )
    series_number: int = Field(
        default=9001,
        ge=1,
        le=LARGEST_SERIES_NUMBER,
        description="SeriesNumber of segmentations; reports have the next one.",
    )


logger = logging.getLogger(__name__)

PRODUCT = "Trivox"
PRIVATE_SCHEME = "99TRIVOX"
"""Coding scheme of labels without a code; DICOM keeps designators from 99 on for private ones."""

LONG_STRING = 64
"""Characters in a Long String (LO), which names are written as."""


Maker: TypeAlias = Literal["model", "person with model", "person"]
"""Who made a label map: the model alone, a person who changed what the model made, or a person."""

_ALGORITHM_TYPES: dict[Maker, str] = {
    "model": "AUTOMATIC",
    "person with model": "SEMIAUTOMATIC",
    "person": "MANUAL",
}
"""SegmentAlgorithmType: AUTOMATIC is calculated, SEMIAUTOMATIC with a user's help, MANUAL entered
by a user."""


@dataclass(frozen=True)
class Algorithm:
    """What made a label map.

    Attributes:
        name: Of the model.
        sha256: Of the model, as hexadecimal text.
        labels: Label name to value, from 1.
        codes: What labels stand for, of those that have a code.
        version: Of Trivox.
        maker: Whether a person has changed or made what it is said of.
    """

    name: str
    sha256: str
    labels: Mapping[str, int]
    codes: Mapping[str, SegmentCode] = field(default_factory=dict)
    version: str = __version__
    maker: Maker = "model"

    @classmethod
    def of(cls, model: "Model") -> Self:
        """Return what a model's masks are made by; log, once, which labels have no code."""
        described = model.description
        uncoded = [label for label in described.labels if label not in described.codes]
        if uncoded:
            logger.warning(
                "labels without a code are written in the private scheme %s: %s. Name them by "
                "`codes` in the manifest that the model is trained on.",
                PRIVATE_SCHEME,
                ", ".join(uncoded),
            )
        return cls(described.name, model.sha256, described.labels, described.codes)

    def title(self, what: str) -> str:
        """Return the description of an output, with its model and whether a person had a hand."""
        by_hand = {"person with model": ", corrected by hand", "person": ", drawn by hand"}
        return long_string(f"{PRODUCT} {what}{by_hand.get(self.maker, '')}: {self.name}")

    @property
    def segment_numbers(self) -> dict[str, int]:
        """Number of each label's segment, in their order."""
        names = sorted(self.labels, key=self.labels.__getitem__)
        return {name: number for number, name in enumerate(names, start=1)}

    @property
    def segment_labels(self) -> dict[int, str]:
        """SegmentLabel of each segment, by its number."""
        return {number: long_string(name) for name, number in self.segment_numbers.items()}

    def tracking_id(self, label: str) -> str:
        """Return what people call the structure that a label marks."""
        return f"{PRODUCT} {long_string(label)}"

    def tracking_uid(self, label: str, series_uid: str) -> str:
        """Return what names the structure that this model marks so in a series."""
        return derived_uid("tracking", series_uid, self.sha256, label)

    def code_of(self, label: str) -> SegmentCode:
        """Return what a label stands for: its code, or its name in a private scheme."""
        if label in self.codes:
            return self.codes[label]
        meaning = long_string(label)
        private = Code(value=_private_value(label), scheme=PRIVATE_SCHEME, meaning=meaning)
        return SegmentCode(category=ANATOMICAL_STRUCTURE, type=private)


def derived_uid(*parts: str) -> str:
    """Return the UID that stands for `parts`: the same for the same, another for any others."""
    # Their lengths keep ("ab", "c") apart from ("a", "bc").
    text = "".join(f"{len(part)}:{part}" for part in (PRODUCT, *parts))
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, text).int}"


def describe_segments(algorithm: Algorithm, series_uid: str) -> "list[SegmentDescription]":
    """Return the descriptions of the segments, in the order of their numbers.

    Args:
        algorithm: What made the labels.
        series_uid: SeriesInstanceUID of the source.
    """
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentDescription
    from pydicom.sr.codedict import codes

    identification = AlgorithmIdentificationSequence(
        name=long_string(f"{PRODUCT} {algorithm.name}"),
        family=codes.cid7162.ArtificialIntelligence,
        version=algorithm.version,
        source=PRODUCT,
        parameters={"model_sha256": algorithm.sha256},
    )
    descriptions = []
    for label, number in algorithm.segment_numbers.items():
        code = algorithm.code_of(label)
        description = SegmentDescription(
            segment_number=number,
            segment_label=long_string(label),
            segmented_property_category=concept(code.category),
            segmented_property_type=concept(code.type),
            algorithm_type=_ALGORITHM_TYPES[algorithm.maker],
            algorithm_identification=None if algorithm.maker == "person" else identification,
            tracking_id=algorithm.tracking_id(label),
            tracking_uid=algorithm.tracking_uid(label, series_uid),
            anatomic_regions=None if code.region is None else [concept(code.region)],
        )
        description.SegmentDescription = f"Label value {algorithm.labels[label]}"
        if code.type_modifier is not None:
            of_type = description.SegmentedPropertyTypeCodeSequence[0]
            of_type.SegmentedPropertyTypeModifierCodeSequence = [concept(code.type_modifier)]
        if code.region_modifier is not None:
            region = description.AnatomicRegionSequence[0]
            region.AnatomicRegionModifierSequence = [concept(code.region_modifier)]
        descriptions.append(description)
    return descriptions


def concept(code: Code) -> "CodedConcept":
    """Return a code as highdicom takes it."""
    from highdicom.sr import CodedConcept

    return CodedConcept(code.value, code.scheme, code.meaning)


def long_string(text: str) -> str:
    r"""Return `text` as a DICOM Long String: on one line, without `\`, of at most 64 characters."""
    line = " ".join(text.replace("\\", "/").split())
    return line[:LONG_STRING].rstrip()


def _private_value(label: str) -> str:
    """Return a code value for a label: readable, and its own however alike two names are."""
    readable = re.sub(r"[^A-Z0-9]+", "_", label.upper())[:9].strip("_")
    return f"{readable}_{hashlib.sha256(label.encode()).hexdigest()[:6].upper()}".lstrip("_")
