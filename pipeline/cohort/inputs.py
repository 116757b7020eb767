"""Turn what the user names on the command line into studies with unique names."""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.cohort.dicom_inputs import DicomOptions, dicom_studies, with_series
from pipeline.cohort.outputs import Outputs
from pipeline.cohort.study_input import StudyInput
from pipeline.errors import ConfigError
from pipeline.manifest import is_manifest, load_manifest
from pipeline.study import VOLUME_SUFFIXES, Source, case_name, is_dicom

logger = logging.getLogger(__name__)

_NO_DICOM = DicomOptions()
_CHANNEL = re.compile(r"_\d{4}$")


def find_studies(
    inputs: Sequence[Path],
    *,
    num_channels: int | None,
    out: Path | None,
    root: Path | None = None,
    dicom: DicomOptions = _NO_DICOM,
) -> list[StudyInput]:
    """Find the studies in files, folders and manifests.

    Files `<case>_0000`, `<case>_0001`, ... of one folder are the channels of one study (nnU-Net's
    convention); without a `_0000` such numbers are part of the name. Folders are searched with all
    below them, except for hidden files and the output folder; one that holds a `dataset.json` is
    read as a manifest. DICOM files are grouped by study, of which a series is chosen, wherever
    they lie; those beside volumes are taken for their source and left out.

    A study is called as its manifest or file says. Where two would have the same name, the names of
    as many parent folders as needed are put before it (`left/scan.nii.gz` and `right/scan.nii.gz`
    become `left_scan` and `right_scan`), or, within one folder, the suffix after it (`scan_nrrd`).
    DICOM studies are called by a hash, unless a manifest names them. The names follow from the
    inputs (and the salt) alone, so that a second call gives the same ones.

    Args:
        inputs: Volumes, folders, DICOM files, and manifests (.json, .yaml, .csv).
        num_channels: Number of channels that the model takes; None if there is no model yet, so
            that any complete set of channels will do.
        out: The output folder, which is never searched; None if there is none.
        root: Where the data of manifests lies, if not where they say.
        dicom: How to choose and name DICOM series.

    Raises:
        ConfigError: If an input does not exist, holds no study, or would be overwritten.
        ManifestError: If a manifest does not hold.
    """
    files: list[Path] = []
    studies: list[StudyInput] = []
    for path in inputs:
        if not path.exists():
            raise ConfigError(path, "there is no such file or folder", "Check the path.")
        if is_manifest(path):
            cases = load_manifest(path, root).cases
            studies += [with_series(StudyInput(case.name, case.images)) for case in cases]
        elif path.is_dir():
            found = _files_below(path, out)
            if not found:
                remedy = f"Name volumes ({', '.join(VOLUME_SUFFIXES)}), or a folder that has some."
                if out is not None and path.resolve() == out.resolve():
                    remedy = "The output folder is not searched: choose another one with --out."
                raise ConfigError(path, "no studies found in this folder", remedy)
            files += found
        else:
            files.append(path)
    files = _without_repeats(files)
    in_dicom = [path for path in files if not _is_volume(path) and is_dicom(path)]
    others = dict.fromkeys(files)
    for path in in_dicom:
        del others[path]
    studies += _group(others, num_channels)
    studies += dicom_studies(in_dicom, num_channels, dicom)
    if not studies:
        text = f"none of {len(in_dicom)} DICOM file(s) holds an image"
        raise ConfigError(inputs[0], text, "Give the series that was segmented or reported on.")
    once = {_identity(study): study for study in studies}.values()
    named = [_refuse_name(study) for study in _with_unique_names(once)]
    if out is not None:
        _check_not_overwritten(named, out)
    return named


def _identity(study: StudyInput) -> tuple[Source, ...]:
    return tuple(s.absolute() if isinstance(s, Path) else s for s in study.sources)


def _refuse_name(study: StudyInput) -> StudyInput:
    """Refuse a name that tables and provenance cannot hold, and spell it so that they can."""
    if study.case.isprintable() and study.case.encode("utf-8", "ignore").decode() == study.case:
        return study
    spelled = study.case.encode("unicode_escape").decode("ascii")
    refusal = "the file name holds characters that cannot be printed. Rename the file."
    return replace(study, case=spelled, refusal=refusal)


def _without_repeats(files: Iterable[Path]) -> list[Path]:
    return list({path.absolute(): path for path in files}.values())


def _files_below(folder: Path, out: Path | None) -> list[Path]:
    """Return the volumes below `folder`, and the DICOM files of folders that have none."""
    skipped = out.resolve() if out is not None and _is_below(out, folder) else None
    by_folder: dict[Path, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        is_hidden = any(part.startswith(".") for part in relative.parts)
        is_output = skipped is not None and path.resolve().is_relative_to(skipped)
        if path.is_file() and not is_hidden and not is_output:
            by_folder.setdefault(path.parent, []).append(path)
    found: list[Path] = []
    for members in by_folder.values():
        volumes = [path for path in members if _is_volume(path)]
        found += volumes or [path for path in members if not is_manifest(path) and is_dicom(path)]
    return found


def _is_below(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _is_volume(path: Path) -> bool:
    return path.name.lower().endswith(VOLUME_SUFFIXES)


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


def _with_unique_names(studies: Iterable[StudyInput]) -> list[StudyInput]:
    homes = [(study.first_file.absolute().parent, study.case.casefold()) for study in studies]
    num_at_home = Counter(homes)
    bases = [
        study if num_at_home[home] == 1 else replace(study, case=_name_with_suffix(study))
        for study, home in zip(studies, homes, strict=True)
    ]
    depths = [0] * len(bases)
    while True:
        named = [
            replace(s, case=_prefixed(s, depth)) for s, depth in zip(bases, depths, strict=True)
        ]
        # Letter case does not tell files apart on every file system.
        counts = Counter(study.case.casefold() for study in named)
        clashing = [i for i, study in enumerate(named) if counts[study.case.casefold()] > 1]
        if not clashing:
            if any(depths):
                logger.warning(
                    "%d studies share file names, so the names of their folders are put before "
                    "them. If folders name patients, use a CSV (columns case,image) instead.",
                    sum(depth > 0 for depth in depths),
                )
            return named
        for index in clashing:
            depths[index] += 1
            if depths[index] > len(bases[index].first_file.absolute().parents):
                raise ConfigError(
                    bases[index].first_file,
                    f"another input would be called {named[index].case} as well",
                    "Name the studies in a CSV (columns case,image).",
                )


def _name_with_suffix(study: StudyInput) -> str:
    return study.first_file.name.replace(".", "_")


def _prefixed(study: StudyInput, depth: int) -> str:
    folders = [folder.name for folder in study.first_file.absolute().parents][:depth]
    return "_".join([*reversed([name for name in folders if name]), study.case])


def _check_not_overwritten(studies: Iterable[StudyInput], out: Path) -> None:
    folder = out.resolve()
    written = {path for study in studies for path in Outputs(folder, study.case).all()}
    for study in studies:
        for path in study.sources:
            if isinstance(path, Path) and path.resolve() in written:
                raise ConfigError(
                    path,
                    "this input has the name of an output and would be overwritten",
                    "Choose another folder with --out.",
                )
