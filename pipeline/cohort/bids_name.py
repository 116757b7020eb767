"""File names of BIDS: what an image's name says, and what is named after it.

Source:
    Brain Imaging Data Structure 1.10, https://bids-specification.readthedocs.io: "Entities", and
    "Imaging data types" of derivatives (`<source_entities>[_seg-<label>]..._dseg.nii.gz`).
"""

import re
from dataclasses import dataclass
from pathlib import Path

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
