"""Turn what the user names on the command line into studies with unique names."""

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.cohort.bids import DESCRIPTION, BidsChoice, check_places, find_bids_studies, is_bids
from pipeline.cohort.dicom_inputs import DicomOptions, dicom_studies, with_series
from pipeline.cohort.naming import hashed_name, with_unique_names
from pipeline.cohort.outputs import Outputs
from pipeline.cohort.search import Search, is_volume, search_folder
from pipeline.cohort.study_input import StudyInput
from pipeline.errors import ConfigError, ManifestError
from pipeline.manifest import is_manifest, load_manifest
from pipeline.outside import read_json
from pipeline.spelling import spelled
from pipeline.study import VOLUME_SUFFIXES, Source, case_name, dicom_among

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataRoot:
    """Where the data of manifests lies.

    Attributes:
        root: The folder, if not the one that they say.
        allow_outside: Whether they may name files outside it.
    """

    root: Path | None = None
    allow_outside: bool = False


_WHERE_IT_SAYS = DataRoot()
_ANY_IMAGE = BidsChoice()
_NO_DICOM = DicomOptions()
_CHANNEL = re.compile(r"_\d{4}$")


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
    below them, except for hidden files and the output folder; one that cannot be read is a refused
    study, and one that holds a `dataset.json` is
    read as a manifest, and a BIDS data set as such; a description beside volumes that cannot be
    read is a refused study, too. DICOM files are grouped by study, of which a
    series is chosen, wherever they lie; those beside volumes are taken for their source and left
    out.

    A study is called as its manifest or file says. Where two would have the same name, a hash of
    the folder is put after it (`scan_3f9c01d2`), since folders can name patients, or, within one
    folder, the suffix (`scan_nrrd`).
    DICOM studies are called by a hash, unless a manifest names them. The names follow from the
    inputs (and the salt) alone, so that a second call gives the same ones.

    Args:
        inputs: Volumes, folders, DICOM files, and manifests (.json, .yaml, .csv).
        num_channels: Number of channels that the model takes; None if there is no model yet, so
            that any complete set of channels will do.
        out: The output folder, which is never searched; None if there is none.
        data: Where the data of manifests lies.
        bids: Which images of BIDS data sets are wanted; see `find_bids_studies`.
        dicom: How to choose and name DICOM series.

    Raises:
        ConfigError: If an input does not exist, holds no study, or would be overwritten.
        ManifestError: If a manifest does not hold.
    """
    files: list[Path] = []
    unreadable: list[Path] = []
    studies: list[StudyInput] = []
    for path in inputs:
        if not path.exists():
            raise ConfigError(path, "there is no such file or folder", "Check the path.")
        if is_manifest(path):
            cases = load_manifest(path, data.root, allow_outside=data.allow_outside).cases
            studies += [with_series(StudyInput(case.name, case.images)) for case in cases]
        elif is_bids(path):
            studies += find_bids_studies(path, bids)
            unreadable += [
                folder
                for subject in sorted(path.glob("sub-*"))
                for folder in search_folder(subject).unreadable
            ]
        elif path.is_dir():
            studies += _unreadable_descriptions(path)
            search = _files_below(path, out)
            files += search.files
            unreadable += search.unreadable
        else:
            files.append(path)
    files = _without_repeats(files)
    in_dicom = dicom_among(path for path in files if not is_volume(path))
    others = dict.fromkeys(files)
    for path in in_dicom:
        del others[path]
    studies += _group(others, num_channels)
    studies += dicom_studies(in_dicom, num_channels, dicom)
    studies += [_unreadable_study(folder, dicom.salt) for folder in unreadable]
    if not studies:
        text = f"none of {len(in_dicom)} DICOM file(s) holds an image"
        raise ConfigError(inputs[0], text, "Give the series that was segmented or reported on.")
    once = {_identity(study): study for study in studies}.values()
    named = [_refuse_name(study) for study in with_unique_names(once, dicom.salt)]
    check_places(named)
    if out is not None:
        _check_not_overwritten(named, out)
    return named


def _identity(study: StudyInput) -> tuple[Source, ...]:
    return tuple(s.absolute() if isinstance(s, Path) else s for s in study.sources)


def _refuse_name(study: StudyInput) -> StudyInput:
    """Refuse a name that tables and provenance cannot hold, and spell it so that they can."""
    if spelled(study.case) == study.case:
        return study
    refusal = "the file name holds characters that cannot be printed. Rename the file."
    return replace(study, case=spelled(study.case), refusal=refusal)


def _without_repeats(files: Iterable[Path]) -> list[Path]:
    return list({path.absolute(): path for path in files}.values())


def _files_below(folder: Path, out: Path | None) -> Search:
    """Return the volumes below `folder`, and the DICOM files of folders that have none.

    Raises:
        ConfigError: If there are none.
    """
    search = search_folder(folder, out if out is not None and _is_below(out, folder) else None)
    if folder in search.unreadable:
        raise ConfigError(folder, "the folder cannot be read", "Check its permissions.")
    by_folder: dict[Path, list[Path]] = {}
    for path in search.files:
        by_folder.setdefault(path.parent, []).append(path)
    found: list[Path] = []
    for members in by_folder.values():
        volumes = [path for path in members if is_volume(path)]
        found += volumes or dicom_among(path for path in members if not is_manifest(path))
    if not found and not search.unreadable:
        remedy = f"Name volumes ({', '.join(VOLUME_SUFFIXES)}), or a folder that has some."
        if out is not None and folder.resolve() == out.resolve():
            remedy = "The output folder is not searched: choose another one with --out."
        raise ConfigError(folder, "no studies found in this folder", remedy)
    return Search(found, search.unreadable)


def _unreadable_study(folder: Path, salt: bytes) -> StudyInput:
    """Stand for whatever is in a folder that cannot be read, so that it is not forgotten."""
    refusal = (
        "a folder cannot be read, and what is in it is not known. Check its permissions; `trivox "
        "status OUT --sources` tells which it is."
    )
    return StudyInput(hashed_name(salt, str(folder.absolute()), kind="folder"), (folder,), refusal)


def _unreadable_descriptions(folder: Path) -> list[StudyInput]:
    """Stand for descriptions of data sets that say nothing, in a folder that has studies anyway."""
    found = []
    for name in ("dataset.json", DESCRIPTION):
        path = folder / name
        if not path.exists() or path.is_dir():
            continue
        try:
            read_json(path, ManifestError)
        except ManifestError as error:
            place = error.where.removeprefix(str(path)).lstrip(":")
            line = f"line {place}: " if place else ""
            found.append(StudyInput(name, (path,), f"{line}{error.found}. {error.remedy}"))
    return found


def _is_below(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


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


def _check_not_overwritten(studies: Iterable[StudyInput], out: Path) -> None:
    folder = out.resolve()
    written = {path for study in studies for path in Outputs.of(folder, study).all()}
    for study in studies:
        for path in study.sources:
            if isinstance(path, Path) and path.resolve() in written:
                raise ConfigError(
                    path,
                    "this input has the name of an output and would be overwritten",
                    "Choose another folder with --out.",
                )
