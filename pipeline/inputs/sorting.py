"""Tell among files which are volumes, which DICOM, and which are images that are not read."""

import logging
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.inputs.gather import is_volume
from pipeline.inputs.naming import hashed_name
from pipeline.inputs.unread import has_beside, has_unread_name, is_no_image, sort_unread
from pipeline.manifest import is_manifest
from pipeline.study import dicom_among
from pipeline.study.input import StudyInput
from pipeline.system.text import check_ordinary

logger = logging.getLogger(__name__)

_DICOM_ENDINGS = (".dcm", ".ima")


@dataclass(frozen=True)
class Kinds:
    """Files by what they are.

    Attributes:
        volumes: Files that the reader decides on.
        dicom: DICOM files.
        refused: Images that are not read, each a refused study.
    """

    volumes: Sequence[Path]
    dicom: Sequence[Path]
    refused: Sequence[StudyInput]


def sort_files(files: Iterable[Path], named: Collection[Path], salt: bytes) -> Kinds:
    """Sort files by what they are; those that are plainly no images are left out.

    Args:
        files: Of any kind, such as links to files that are gone.
        named: Those of them that the user named, which all count.
        salt: Of the names of refused studies, from `load_salt`.
    """
    by_folder: dict[Path, list[Path]] = {}
    for path in dict.fromkeys(map(_header_of, files)):
        by_folder.setdefault(path.parent, []).append(path)
    volumes: list[Path] = []
    dicom: list[Path] = []
    left: list[Path] = []
    for members in by_folder.values():
        here = [path for path in members if is_volume(path)]
        rest = [path for path in members if not is_volume(path)]
        found = _dicom_among(rest, named, beside_volumes=bool(here))
        volumes += here
        dicom += found
        left += [path for path in rest if path not in found]
    unread = sort_unread([p for p in left if p not in named or has_unread_name(p)], salt)
    # The reader says what is wrong with other files that were named.
    volumes += [path for path in left if path in named and not has_unread_name(path)]
    if unread.num_unknown:
        logger.info(
            "%d files are of no kind that Trivox knows, and were left out", unread.num_unknown
        )
    return Kinds(volumes, dicom, unread.unread)


def refuse_special(paths: Iterable[Path], named: Collection[Path] = ()) -> list[StudyInput]:
    """Return a refused study for each pipe, socket or device that has the name of an image.

    In a folder of DICOM files, others may stand for a slice: see `sort_files`.
    """
    studies = []
    for path in paths:
        if is_volume(path) or has_unread_name(path) or path in named:
            try:
                check_ordinary(path)
            except OSError as error:
                found = f"it is {error.strerror}. Give a file, or leave it out."
                studies.append(StudyInput(path.name, (path,), found))
    return studies


def refuse_folders(files: Iterable[Path], refusal: str, salt: bytes) -> list[StudyInput]:
    """Return a refused study for each folder of some files; `{}` in the text is their number."""
    by_folder: dict[Path, list[Path]] = {}
    for path in files:
        by_folder.setdefault(path.absolute().parent, []).append(path)
    return [
        StudyInput(
            hashed_name(salt, str(folder), "links", kind="folder"),
            (members[0],),
            refusal.format(len(members)),
        )
        for folder, members in by_folder.items()
    ]


def _header_of(path: Path) -> Path:
    """Return the header that a file of voxels belongs to: `a.hdr` of `a.img`."""
    if path.suffix.lower() != ".img" or not has_beside(path, path.stem, ".hdr"):
        return path
    beside = (path.with_suffix(ending) for ending in (".hdr", ".HDR"))
    return next((each for each in beside if os.path.lexists(each)), path)


def _says_dicom(path: Path) -> bool:
    return path.suffix.lower() in _DICOM_ENDINGS


def _dicom_among(
    paths: Iterable[Path], named: Collection[Path], *, beside_volumes: bool
) -> dict[Path, None]:
    """Return the DICOM files among others of a folder.

    Beside volumes, tables and texts are not opened; and what cannot be opened, and does not say
    that it is DICOM, counts only where others are.
    """
    candidates: list[Path] = []
    closed: list[Path] = []
    for path in paths:
        if path not in named and (is_manifest(path) or (beside_volumes and is_no_image(path))):
            continue
        is_closed = os.access(path, os.F_OK) and not os.access(path, os.R_OK)
        is_doubtful = is_closed and (beside_volumes or has_unread_name(path))
        (closed if is_doubtful and not _says_dicom(path) else candidates).append(path)
    found = dict.fromkeys(dicom_among(candidates))
    if found:
        found |= dict.fromkeys(path for path in closed if not has_unread_name(path))
    return found
