"""Turn what the user names on the command line into studies with unique names."""

import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.inputs.bids import (
    DESCRIPTION,
    RESERVED,
    BidsChoice,
    find_bids_studies,
    is_bids,
    odd_images,
    refuse_shared_places,
)
from pipeline.inputs.dicom import DicomOptions, dicom_studies, with_series
from pipeline.inputs.gather import (
    REMEDY,
    Gathered,
    is_output,
    is_volume,
    refuse_links,
    refuse_outside,
    refused_folders,
    search_folder,
)
from pipeline.inputs.naming import name_around, with_unique_names
from pipeline.inputs.sorting import Kinds, refuse_folders, refuse_special, sort_files
from pipeline.inputs.unread import has_unread_name, is_no_image
from pipeline.manifest import Case, is_manifest, load_manifest
from pipeline.manifest.load import LIST, find_fault
from pipeline.output.places import NAME_BYTES, Outputs, too_long
from pipeline.study import Source, case_name
from pipeline.study.input import StudyInput
from pipeline.system.ownership import is_changed, is_ours
from pipeline.system.spelling import spelled

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataRoot:
    """Where files may lie.

    Attributes:
        root: The folder of manifests' data, if not the one that they say.
        allow_outside: Whether manifests may name files outside it.
        no_links: Whether links that lead out of an input folder are refused.
    """

    root: Path | None = None
    allow_outside: bool = False
    no_links: bool = False


_WHERE_IT_SAYS = DataRoot()
_ANY_IMAGE = BidsChoice()
_NO_DICOM = DicomOptions()
_CHANNEL = re.compile(r"_\d{4}$")
_LONGEST_SHOWN = 200
_OVERWRITTEN = (
    "this input has the name of an output and would be overwritten. Leave it out, or choose "
    "another folder with --out."
)
_OVERWRITES = "its mask has the name of another input. Choose another folder with --out."


def find_studies(
    inputs: Sequence[Path],
    *,
    num_channels: int | None,
    out: Path | None,
    data: DataRoot = _WHERE_IT_SAYS,
    bids: BidsChoice = _ANY_IMAGE,
    dicom: DicomOptions = _NO_DICOM,
) -> list[StudyInput]:
    """Find the studies in files, folders and manifests.

    Files `<case>_0000`, `<case>_0001`, ... of one folder are the channels of one study (nnU-Net's
    convention); without a `_0000` such numbers are part of the name. Folders are searched with all
    below them, except for hidden files and output folders; one that cannot be read is a refused
    study, and so is each image of a kind that is not read, and a description of a data set that
    cannot be read beside volumes. One that holds a `dataset.json` is read
    as a manifest, and a BIDS data set as such. DICOM files are grouped by study, of which a series
    is chosen, wherever they lie; a series is left out if a volume beside it was made from it.

    A study is called as its manifest or file says. Where two would have the same name, a hash of
    the folder is put after it (`scan_3f9c01d2`), since folders can name patients, or, within one
    folder, the suffix (`scan_nrrd`), or a hash of the path. DICOM studies are called by a hash,
    unless a manifest names them. The names follow from the inputs (and the salt) alone, so that a
    second call gives the same ones.

    Args:
        inputs: Volumes, folders, DICOM files, and manifests (.json, .yaml, .csv).
        num_channels: Number of channels that the model takes; None if there is no model yet, so
            that any complete set of channels will do.
        out: The output folder, which is never searched; None if there is none.
        data: Where files may lie.
        bids: Which images of BIDS data sets are wanted; see `find_bids_studies`.
        dicom: How to choose and name DICOM series.

    Raises:
        ConfigError: If an input does not exist or holds no study.
        ManifestError: If a manifest does not hold.
    """
    gathered = Gathered(out, follow=not data.no_links)
    studies, refused = _look_into(inputs, gathered, out, data, bids, dicom.salt)
    gathered.tell_links()
    links = frozenset[Path]() if gathered.follow else frozenset(gathered.links)
    special = refuse_special(gathered.special, gathered.named)
    apart = {path for study in special for path in study.sources}
    # A link that is not followed is not opened, either, unless as a volume that is refused.
    closed = [p for p in gathered.files.values() if p in links and not _is_told_by_name(p)]
    kinds = sort_files(
        [p for p in gathered.files.values() if p not in apart and p not in closed],
        gathered.named,
        dicom.salt,
    )
    gathered.check_found(
        {*kinds.volumes, *kinds.dicom, *closed, *_files_of(kinds.refused), *_files_of(special)}
    )
    studies += _group(kinds.volumes, num_channels)
    studies += _in_dicom(kinds, closed, num_channels, dicom)
    if data.no_links:
        studies = [_without_links(study, gathered) for study in studies]
    linked = f"{{}} file(s) of a folder are links out of the input folder. {REMEDY}"
    refused += [
        *special,
        *kinds.refused,
        *refuse_folders(closed, linked, dicom.salt),
        *refused_folders((path for path in links if path.is_dir()), dicom.salt),
        *gathered.unreadable_studies(dicom.salt),
    ]
    if not studies and not refused:
        text = f"none of {len(kinds.dicom)} DICOM file(s) holds an image"
        raise ConfigError(inputs[0], text, "Give the series that was segmented or reported on.")
    once = {_identity(study): study for study in studies}.values()
    named = with_unique_names(once, dicom.salt)
    named += name_around(refused, named, dicom.salt)
    named = refuse_shared_places([_refuse_name(study) for study in named])
    return named if out is None else list(_refuse_overwriting(named, out))


def _look_into(
    inputs: Sequence[Path],
    gathered: Gathered,
    out: Path | None,
    data: DataRoot,
    bids: BidsChoice,
    salt: bytes,
) -> tuple[list[StudyInput], list[StudyInput]]:
    """Return the studies that manifests and BIDS list, and those refused; gather other files."""
    studies: list[StudyInput] = []
    refused: list[StudyInput] = []
    for path in inputs:
        _check_exists(path)
        if is_manifest(path):
            studies += _listed(path, data)
        elif is_bids(path):
            subjects = sorted(path.glob("sub-*"))
            searches = [gathered.look_into(each) for each in subjects]
            _tell_outside(path, subjects, out)
            below = [file for search in searches for file in search.files]
            studies += _in_bids(path, bids, data)
            refused += odd_images(path, below, salt)
        elif path.is_dir():
            gathered.add_folder(path)
            refused += _unreadable_descriptions(path)
        else:
            gathered.add_file(path)
    return studies, refused


def _check_exists(path: Path) -> None:
    try:
        path.stat()
    except (OSError, ValueError) as error:
        if os.path.islink(path):  # noqa: PTH114  # Path.is_symlink raises.
            found = "it is a link to nothing"
        elif isinstance(error, FileNotFoundError | NotADirectoryError):
            found = "there is no such file or folder"
        else:
            found = f"it cannot be looked at ({getattr(error, 'strerror', None) or error})"
        raise ConfigError(_short(path), found, "Check the path.") from error


def _short(path: Path) -> str:
    """Return a path as a line can hold it."""
    text = str(path)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _listed(path: Path, data: DataRoot) -> list[StudyInput]:
    """Return the studies of a manifest."""
    root = data.root or (path if path.is_dir() else path.parent)
    cases = load_manifest(path, data.root, allow_outside=data.allow_outside).cases
    tell_unlisted(path, cases)
    studies = []
    for case in cases:
        study = with_series(StudyInput(case.name, case.images))
        if not data.allow_outside:
            study = refuse_outside(study, root, case.images)
        studies.append(refuse_links(study, root, case.images) if data.no_links else study)
    return studies


def tell_unlisted(path: Path, cases: Sequence[Case]) -> None:
    """Say how many images lie in folders that a list of cases describes, and are not in it."""
    folders = [each for case in cases for each in case.images if each.is_dir()]
    if path.is_dir():
        folders.append(path)
    listed = {
        os.path.realpath(each) for case in cases for each in (*case.images, case.label or ".")
    }
    found = {
        os.path.realpath(file)
        for folder in folders
        for file in search_folder(folder).files
        if is_volume(file) or has_unread_name(file)
    }
    if found - listed:
        logger.warning(
            "%d images lie in folders of a list of cases and are not in it: left out",
            len(found - listed),
        )


def _tell_outside(folder: Path, subjects: Sequence[Path], out: Path | None) -> None:
    """Say how many images lie in a BIDS data set, but in no folder of a subject."""
    apart = {*subjects, *(folder / name for name in RESERVED)}
    number = sum(
        is_volume(file) or has_unread_name(file)
        for path in folder.iterdir()
        if path not in apart and not path.name.startswith(".") and not is_output(path)
        for file in (search_folder(path, out).files if path.is_dir() else [path])
    )
    if number:
        logger.warning(
            "%d images lie in a BIDS data set, but in no folder of a subject (sub-LABEL): left "
            "out. Segment them by themselves",
            number,
        )


def _in_bids(path: Path, bids: BidsChoice, data: DataRoot) -> list[StudyInput]:
    """Return the studies of a BIDS data set."""
    studies = find_bids_studies(path, bids)
    return [refuse_links(study, path) for study in studies] if data.no_links else studies


def _unreadable_descriptions(folder: Path) -> list[StudyInput]:
    """Stand for descriptions of data sets that say nothing, in a folder that has studies anyway."""
    found = []
    for name in (LIST, DESCRIPTION):
        path = folder / name
        if not path.exists() or path.is_dir():
            continue
        fault = find_fault(path, is_list=name == LIST)
        if fault is not None:
            place = fault.where.removeprefix(str(path)).lstrip(":")
            line = f"line {place}: " if place else ""
            found.append(StudyInput(name, (path,), f"{line}{fault.found}. {fault.remedy}"))
    return found


def _in_dicom(
    kinds: Kinds, closed: Sequence[Path], num_channels: int | None, dicom: DicomOptions
) -> list[StudyInput]:
    """Return the studies in DICOM files; one that links may belong to is not known whole."""
    beside: dict[Path, list[Path]] = {}
    for path in kinds.volumes:
        beside.setdefault(path.absolute().parent, []).append(path)
    studies = dicom_studies(kinds.dicom, num_channels, dicom, beside)
    folders = {path.absolute().parent for path in closed}
    refusal = f"links beside its files lead out of the input folder. {REMEDY}"
    return [
        replace(study, refusal=refusal)
        if any(file.absolute().parent in folders for file in study.files())
        else study
        for study in studies
    ]


def _without_links(study: StudyInput, gathered: Gathered) -> StudyInput:
    root = gathered.roots.get(study.first_file.absolute())
    return study if root is None else refuse_links(study, root)


def _is_told_by_name(path: Path) -> bool:
    return is_volume(path) or has_unread_name(path) or is_no_image(path)


def _files_of(studies: Iterable[StudyInput]) -> Iterator[Path]:
    return (path for study in studies for path in study.files())


def _identity(study: StudyInput) -> tuple[Source, ...]:
    return tuple(s.absolute() if isinstance(s, Path) else s for s in study.sources)


def _refuse_name(study: StudyInput) -> StudyInput:
    """Refuse a name that tables and outputs cannot hold, and spell it so that they can."""
    if spelled(study.case) != study.case:
        refusal = "the file name holds characters that cannot be printed. Rename the file."
        return replace(study, case=spelled(study.case), refusal=refusal)
    longest = max(len(os.fsencode(path.name)) for path in Outputs.of(Path(), study).always())
    if study.refusal is None and longest > NAME_BYTES:
        return replace(study, refusal=". ".join(too_long(longest)))
    return study


def _group(files: Iterable[Path], num_channels: int | None) -> list[StudyInput]:
    """Make studies of volumes' files: channels of one study together."""
    groups: dict[tuple[Path, str], list[Path]] = {}
    studies: list[StudyInput] = []
    for path in files:
        stem = _CHANNEL.sub("", case_name(path))
        groups.setdefault((path.parent, stem), []).append(path)
    for (_, stem), members in groups.items():
        channels = {path for path in members if _CHANNEL.search(case_name(path))}
        if not any(case_name(path).endswith("_0000") for path in channels):
            channels = set()
        studies += [StudyInput(case_name(p), (p,)) for p in members if p not in channels]
        if channels:
            studies.append(_join_channels(stem, sorted(channels), num_channels))
    return studies


def _join_channels(stem: str, paths: Sequence[Path], num_channels: int | None) -> StudyInput:
    numbers = [case_name(path)[-4:] for path in paths]
    refusal = None
    if num_channels is None:
        num_channels = len(paths)
    # A lone _0000 may hold all channels; only reading it can tell.
    if len(paths) > 1 and numbers != [f"{index:04d}" for index in range(num_channels)]:
        refusal = (
            f"the files {stem}_{numbers[0]} to _{numbers[-1]} look like {len(numbers)} channels of "
            f"one study, but the model takes _0000 to _{num_channels - 1:04d}, each once. Give one "
            "file per channel; list studies that only look like channels in a CSV (column image)."
        )
    return StudyInput(stem, tuple(paths), refusal)


def _refuse_overwriting(studies: Sequence[StudyInput], out: Path) -> Iterator[StudyInput]:
    """Yield studies; refuse an input that lies where a mask is to be written, and whose that is."""
    folder = Path(os.path.realpath(out))
    inputs = {os.path.realpath(path) for study in studies for path in study.files()}
    written = {
        str(path): study.case for study in studies for path in Outputs.of(folder, study).all()
    }
    clashes = inputs & set(written)
    # Of what Trivox wrote there, the study goes on; a person's file must not make way for it.
    kept = {written[path] for path in clashes if not _was_written(Path(path))}
    for study in studies:
        lies_there = any(os.path.realpath(path) in clashes for path in study.files())
        if study.refusal is None and (lies_there or study.case in kept):
            yield replace(study, refusal=_OVERWRITTEN if lies_there else _OVERWRITES)
        else:
            yield study


def _was_written(path: Path) -> bool:
    return is_ours(path) or is_changed(path)
