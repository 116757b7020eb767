"""The studies of a BIDS data set: which of its images a model is meant for.

Source:
    Brain Imaging Data Structure 1.10, https://bids-specification.readthedocs.io.

Names that BIDS does not know may name patients; such a study is called by a hash.
"""

import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.errors import ConfigError, StudyError
from pipeline.inputs.gather import is_volume
from pipeline.inputs.naming import hashed_name
from pipeline.inputs.sorting import refuse_folders, sort_files
from pipeline.study import open_volume
from pipeline.study.input import NIFTI_ENDINGS, BidsName, Entities, StudyInput
from pipeline.system.documents import read_json

logger = logging.getLogger(__name__)

RESERVED = ("code", "derivatives", "phenotype", "sourcedata", "stimuli")
"""Folders of a data set that hold no images of subjects as they were taken."""

DESCRIPTION = "dataset_description.json"

_ANATOMICAL = ("anat", "ct")
"""Folders whose images are taken without being named."""

_NO_IMAGES = ("dseg", "probseg", "mask", "defacemask")
"""Suffixes of what is made from images."""

_PATTERN = re.compile(r"(?:[a-z]+-[A-Za-z0-9+]+_)*[A-Za-z0-9]+")


@dataclass(frozen=True)
class BidsChoice:
    """Which images of a BIDS data set are wanted.

    Attributes:
        suffixes: One for each channel, as the user names them; none: the model decides. Entities
            may stand before a suffix that is not enough by itself: `ce-gadolinium_T1w`.
        channels: Names of the model's channels; none if there is no model, so that each image is a
            study of its own.
    """

    suffixes: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()

    @classmethod
    def of(cls, text: str | None, channels: Sequence[str]) -> "BidsChoice":
        """Return the choice that a list with commas stands for; None leaves it to the model.

        Raises:
            ConfigError: If a word is no suffix, or they are not as many as the channels.
        """
        suffixes = () if text is None else tuple(word.strip() for word in text.split(","))
        for suffix in suffixes:
            if not _PATTERN.fullmatch(suffix):
                remedy = "Write suffixes such as T1w or ce-gadolinium_T1w, with commas between."
                raise ConfigError("--bids-suffix", f"{suffix!r} is no suffix of BIDS", remedy)
        # One file may hold all channels.
        if len(suffixes) > 1 and channels and len(suffixes) != len(channels):
            found = f"{len(suffixes)} suffixes, but the model has {len(channels)} channels"
            remedy = f"Name one for each, in this order: {', '.join(channels)}."
            raise ConfigError("--bids-suffix", found, remedy)
        return cls(suffixes, tuple(channels))


@dataclass(frozen=True)
class _Image:
    path: Path
    name: BidsName


def is_bids(folder: Path) -> bool:
    """Tell whether a folder is a BIDS data set: its description names a version of BIDS."""
    return folder.is_dir() and "BIDSVersion" in read_description(folder)


def read_description(folder: Path) -> dict[str, object]:
    """Return what a data set says of itself; empty if it says nothing that can be read."""
    if not (folder / DESCRIPTION).is_file():
        return {}
    try:
        return read_json(folder / DESCRIPTION, ConfigError)
    except ConfigError:
        return {}


def find_bids_studies(folder: Path, choice: BidsChoice) -> list[StudyInput]:
    """Find the studies of a data set: `sub-*/[ses-*/]<datatype>/sub-*_<suffix>.nii[.gz]`.

    A model of one channel takes the images of the suffix that was named; else of the suffix that is
    the channel's name, with or without a `w` at its end and in any letter case (`t1` finds `T1w`);
    else of the only suffix that there is among 3D images in `anat` and `ct`. For several channels
    the suffixes are named or follow from the channels' names, and the files of a study are equal in
    all other entities. Each run and each acquisition is a study of its own. Data sets within the
    data set (`derivatives`, `sourcedata`) are not searched.

    Args:
        folder: A data set; see `is_bids`.
        choice: What is wanted of it.

    Returns:
        The studies, ordered by name. One that lacks a channel has a refusal.

    Raises:
        ConfigError: If there are no images, or it is not clear which are meant.
    """
    images = _find_images(folder)
    if choice.suffixes or choice.channels:
        suffixes = choice.suffixes or _suffixes_for(choice.channels, images, folder)
        studies = _group(images, suffixes)
        if not studies:
            raise _unclear(folder, images, f"no image has the suffix {' or '.join(suffixes)}")
    else:
        studies = [_study([image]) for image in _anatomical(images)]
        if not studies:
            raise _unclear(folder, images, "no 3D image in a folder anat or ct")
    _tell_others(images, studies)
    return sorted(studies, key=lambda study: study.case)


def _tell_others(images: Iterable[_Image], studies: Iterable[StudyInput]) -> None:
    """Say which images were not asked for."""
    taken = {path for study in studies for path in study.files()}
    numbers = Counter(image.name.suffix for image in images if image.path not in taken)
    if numbers:
        others = ", ".join(f"{suffix} ({number})" for suffix, number in sorted(numbers.items()))
        logger.info("images of the BIDS data set that were not asked for: %s", others)


def refuse_shared_places(studies: Iterable[StudyInput]) -> list[StudyInput]:
    """Refuse studies that would have the same place in a derivative, as those of two data sets can.

    They lose their places, so that what an earlier run left there stays.
    """
    listed = list(studies)
    numbers = Counter(study.bids for study in listed if study.bids is not None)
    shared = "{} images of this name in BIDS data sets. Segment each data set into its own folder."
    return [
        study
        if study.bids is None or numbers[study.bids] == 1
        else replace(study, bids=None, refusal=shared.format(numbers[study.bids]))
        for study in listed
    ]


def _find_images(folder: Path) -> list[_Image]:
    images = []
    for path in named_places(folder):
        name = BidsName.parse(path)
        if name is not None and name.suffix not in _NO_IMAGES:
            images.append(_Image(path, name))
    return images


def named_places(folder: Path) -> list[Path]:
    """Return the NIfTI files that lie where a data set has its images, whatever their names."""
    found = [*folder.glob("sub-*/*/*"), *folder.glob("sub-*/ses-*/*/*")]
    return sorted(
        path
        for path in found
        if path.name.endswith(NIFTI_ENDINGS) and not path.name.startswith(".")
    )


def _suffixes_for(
    channels: Sequence[str], images: Sequence[_Image], folder: Path
) -> tuple[str, ...]:
    """Return the suffix of each channel, by its name or because there is only one."""
    spelled = {image.name.suffix.casefold(): image.name.suffix for image in images}
    words = [channel.casefold() for channel in channels]
    found = [spelled.get(word, spelled.get(f"{word}w")) for word in words]
    if None not in found:
        return tuple(suffix for suffix in found if suffix is not None)
    only = {image.name.suffix for image in _anatomical(images)}
    if len(channels) == 1 and len(only) == 1:
        return tuple(only)
    raise _unclear(folder, images, f"which images are meant for {', '.join(channels)} is not clear")


def _anatomical(images: Iterable[_Image]) -> list[_Image]:
    """Return the images in 3D of anatomy; the first of each suffix tells for all of them."""
    is_3d: dict[str, bool] = {}
    taken = []
    for image in images:
        if image.name.datatype not in _ANATOMICAL:
            continue
        if image.name.suffix not in is_3d:
            is_3d[image.name.suffix] = _is_3d(image.path)
        if is_3d[image.name.suffix]:
            taken.append(image)
    return taken


def _is_3d(path: Path) -> bool:
    try:
        return open_volume(path).num_volumes == 1
    except (StudyError, OSError, ValueError):
        # Reading it will say what is wrong with it.
        return True


def _group(images: Iterable[_Image], suffixes: Sequence[str]) -> list[StudyInput]:
    groups: dict[Entities, dict[str, list[_Image]]] = {}
    for image in images:
        for suffix in suffixes:
            rest = _rest(image.name, suffix)
            if rest is not None:
                groups.setdefault(rest, {}).setdefault(suffix, []).append(image)
    whole = [group for group in groups.values() if _refusal(group, suffixes) is None]
    used = {image.path for group in whole for members in group.values() for image in members}
    studies = [_study([group[suffix][0] for suffix in suffixes]) for group in whole]
    for group in groups.values():
        members = [image for suffix in suffixes for image in group.get(suffix, ())]
        refusal = _refusal(group, suffixes)
        # A T1w with contrast also looks like the plain one of a study of its own.
        if refusal is not None and not used.issuperset(image.path for image in members):
            studies.append(_study(members, refusal))
    return studies


def _rest(name: BidsName, wanted: str) -> Entities | None:
    """Return the entities that a wanted suffix leaves open, or None if it is not this image's."""
    *words, suffix = wanted.split("_")
    asked = {(key, label) for key, _, label in (word.partition("-") for word in words)}
    if name.suffix != suffix or not asked.issubset(name.entities):
        return None
    return tuple(pair for pair in name.entities if pair not in asked)


def _refusal(group: Mapping[str, Collection[_Image]], suffixes: Sequence[str]) -> str | None:
    lacking = [suffix for suffix in suffixes if suffix not in group]
    if lacking:
        return (
            f"there is no {', '.join(lacking)} to go with {', '.join(group)}. The files of a study "
            "must be equal in all other entities of their names (run, acq, ...)."
        )
    if any(len(members) > 1 for members in group.values()):
        return "an image is there as .nii and as .nii.gz. Remove one of them."
    return None


def _study(images: Sequence[_Image], refusal: str | None = None) -> StudyInput:
    first = images[0].name
    return StudyInput(first.stem, tuple(image.path for image in images), refusal, first)


def _unclear(folder: Path, images: Iterable[_Image], found: str) -> ConfigError:
    numbers = Counter(image.name.suffix for image in images)
    there = ", ".join(f"{suffix} ({number})" for suffix, number in sorted(numbers.items()))
    found = f"BIDS data set: {found}; images by suffix: {there or 'none'}"
    return ConfigError(folder, found, "Name the suffix for each channel, as --bids-suffix T1w.")


_ODD = (
    "it is not named or placed as BIDS says (sub-LABEL/[ses-LABEL/]DATATYPE/sub-LABEL_..._SUFFIX"
    ".nii.gz). Name or convert it so, or segment it by itself."
)
_DICOM = "{} DICOM file(s) of a folder lie in a BIDS data set. Segment that folder by itself."


def odd_images(folder: Path, files: Iterable[Path], salt: bytes) -> list[StudyInput]:
    """Return the images of a data set's subjects that `find_bids_studies` does not look at.

    Args:
        folder: The data set.
        files: What lies below its subjects.
        salt: Of the names of refused studies.
    """
    known = {path for path in named_places(folder) if BidsName.parse(path) is not None}
    kinds = sort_files([path for path in files if path not in known], (), salt)
    odd = [StudyInput(path.name, (path,), _ODD) for path in kinds.volumes if is_volume(path)]
    hashed = [
        replace(one, case=hashed_name(salt, str(one.first_file.absolute()), kind="image"))
        for one in (*odd, *kinds.refused)
    ]
    return [*hashed, *refuse_folders(kinds.dicom, _DICOM, salt)]
