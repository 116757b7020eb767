"""Studies of DICOM files: grouped by study and series, chosen by rule, named by hash.

Axes: I, J, K = voxel axes of the series; N = volumes in one file.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError, StudyError
from pipeline.inputs.naming import hashed_name, load_salt
from pipeline.study import (
    UNREADABLE_REMEDY,
    Choice,
    DicomScan,
    DicomSeries,
    ImageFile,
    Modality,
    SeriesRule,
    check_one_patient,
    choose_series,
    open_volume,
    resolve_source,
    scan_dicom,
)
from pipeline.study.input import StudyInput, unreadable
from pipeline.volume import Grid

logger = logging.getLogger(__name__)

MAX_VOXELS = 2**29
"""Of a volume that is read to be compared."""

NUM_SLICES = 5
"""That are compared, the first and the last among them."""

SAME_SHARE = 0.99
"""Of their voxels that must be equal: conversions round, and fill what is outside."""

ROUNDING = 1e-3


def is_source(series: DicomSeries, volume: Path) -> bool:
    """Tell whether a volume holds what a series holds: the same grid, and the same voxels.

    Five slices from end to end are compared. A label map that was drawn on the series has its grid,
    and other voxels, and so has an image of which something was masked. What cannot be read, or has
    no slice of more than one value, is taken for another image.
    """
    if series.grid is None:
        return False
    try:
        return _is_same(series, series.grid, open_volume(volume))
    except (StudyError, OSError, ValueError, MemoryError) as error:
        logger.debug("not compared with the series beside it: %s", error)
        return False


def split_sources(
    series: Sequence[DicomSeries], beside: Mapping[Path, Sequence[Path]]
) -> tuple[list[DicomSeries], list[DicomSeries]]:
    """Return the series that are images of their own, and those that volumes were made from.

    Args:
        series: Of one or more DICOM studies.
        beside: The volumes in each folder.
    """
    made = [one for one in series if any(is_source(one, path) for path in _volumes(one, beside))]
    return [one for one in series if one not in made], made


def _volumes(series: DicomSeries, beside: Mapping[Path, Sequence[Path]]) -> list[Path]:
    folders = {path.absolute().parent for path in series.files}
    return [path for folder in sorted(folders) for path in beside.get(folder, ())]


def _is_same(series: DicomSeries, grid: Grid, file: ImageFile) -> bool:
    if file.num_volumes != 1 or file.grid.num_voxels > MAX_VOXELS:
        return False
    alignment = file.grid.aligned_to(grid)
    if alignment is None or not alignment.is_same:
        return False
    voxels_IJK = alignment.view(file.load())[..., 0]
    last = grid.shape[2] - 1
    num_all = num_same = 0
    for index in sorted({last * part // (NUM_SLICES - 1) for part in range(NUM_SLICES)}):
        first_IJ, second_IJ = _slice_of(series, grid, index), voxels_IJK[:, :, index]
        is_image = first_IJ > first_IJ.min()
        same = np.isclose(first_IJ[is_image], second_IJ[is_image], rtol=ROUNDING, atol=ROUNDING)
        num_all += same.size
        num_same += int(same.sum())
    return num_all > 0 and num_same >= SAME_SHARE * num_all


def _slice_of(series: DicomSeries, grid: Grid, index: int) -> npt.NDArray[np.float32]:
    file, frame = series.frames[index]
    affine = grid.affine.copy()
    affine[:3, 3] += index * affine[:3, 2]
    columns, rows, _ = grid.shape
    one = replace(
        series,
        files=(series.files[file],),
        frames=((0, frame),),
        grid=Grid((columns, rows, 1), affine),
    )
    voxels_IJKN: npt.NDArray[np.float32] = open_volume(one).load()
    return voxels_IJKN[:, :, 0, 0]


_CHANNELS_REMEDY = (
    "List the channels of each study in a CSV (columns case,image:NAME,image:NAME), whose image "
    "columns may name DICOM folders."
)


_ONE = SeriesRule()
_NOTHING: Mapping[Path, Sequence[Path]] = {}


@dataclass(frozen=True)
class DicomOptions:
    """What to make of DICOM input.

    Attributes:
        rule: How to choose among the series of a study.
        modality: That the model wants; `other` is any.
        salt: Of the names of studies, from `load_salt`. Empty: names that can be guessed.
    """

    rule: SeriesRule = _ONE
    modality: Modality = "other"
    salt: bytes = b""


def dicom_options(series: str, modality: Modality, out: Path) -> DicomOptions:
    """Return the options for a call of `trivox segment`.

    Args:
        series: The rule as the user wrote it.
        modality: That the model wants.
        out: The output folder, which keeps the salt.

    Raises:
        ConfigError: If `series` is no rule, or `out` cannot be written to.
    """
    return DicomOptions(SeriesRule.parse(series), modality, load_salt(out))


def dicom_studies(
    files: Iterable[Path],
    num_channels: int | None,
    options: DicomOptions,
    beside: Mapping[Path, Sequence[Path]] = _NOTHING,
) -> list[StudyInput]:
    """Return the studies in DICOM files.

    What cannot be segmented is a refused study: a DICOM study without a series to choose, and a
    folder's files that are too damaged to tell their series, or that no package here can read.
    Objects without an image (reports, segmentations) are left out, and so are series that a volume
    beside them was made from, unless they were asked for.

    Args:
        files: All that may belong together; what is no DICOM is skipped.
        num_channels: That the model takes; None if there is no model.
        options: How to choose and to name.
        beside: The volumes in each folder, by its absolute path.

    Raises:
        ConfigError: If no study has the series that `options.rule` names.
    """
    files = list(files)
    try:
        scan = scan_dicom(files)
    except StudyError as error:
        refusal = str(error)
        return _refused(files, options.salt, lambda _: refusal)
    if scan.left_out:
        counts = ", ".join(f"{number} {what}" for what, number in sorted(scan.left_out.items()))
        logger.info("DICOM objects without an image were left out: %s", counts)
    if scan.num_copies:
        logger.info("copies of DICOM files count once: %d", scan.num_copies)
    studies = [
        (study_uid, list(members))
        for study_uid, members in groupby(scan.series, lambda series: series.study_uid)
    ]
    if options.rule.kind == "uid" and studies:
        studies = _with_series(studies, options.rule.uid)
    if options.rule.kind not in ("uid", "number") and beside:
        studies = _without_sources(studies, options.modality, beside)
    found = [
        study
        for study_uid, members in studies
        for study in _choose(study_uid, members, num_channels, options)
    ]
    return found + _damaged(scan, options.salt)


def _without_sources(
    studies: Sequence[tuple[str, list[DicomSeries]]],
    modality: Modality,
    beside: Mapping[Path, Sequence[Path]],
) -> list[tuple[str, list[DicomSeries]]]:
    """Leave out what volumes were made from, and of such studies what stands back for it."""
    kept, num_made, num_beside = [], 0, 0
    for study_uid, members in studies:
        own, made = split_sources(members, beside)
        if made:
            has_original = any(not one.is_derived for one in made)
            own = [
                one
                for one in own
                if one.is_volume
                and modality in ("other", one.modality)
                and not (one.is_derived and has_original)
            ]
        num_made += len(made)
        num_beside += sum(any(file.absolute().parent in beside for file in s.files) for s in own)
        if own:
            kept.append((study_uid, own))
    if num_made:
        logger.info(
            "%d DICOM series were left out: volumes beside them hold the same voxels", num_made
        )
    if num_beside:
        logger.info("%d DICOM series lie beside volumes of other voxels, and count too", num_beside)
    return kept


def with_series(study: StudyInput) -> StudyInput:
    """Return a study of a manifest with the series that its DICOM folders hold, or refused."""
    try:
        sources = tuple(resolve_source(source) for source in study.sources)
        check_one_patient(study.case, sources)
        return replace(study, sources=sources)
    except StudyError as error:
        return replace(study, refusal=str(error))
    except (OSError, ValueError) as error:
        return replace(study, refusal=str(unreadable(study.case, error)))


def _with_series(
    studies: Sequence[tuple[str, list[DicomSeries]]], uid: str | None
) -> list[tuple[str, list[DicomSeries]]]:
    kept = [study for study in studies if any(series.uid == uid for series in study[1])]
    if not kept:
        found = f"none of {len(studies)} DICOM studies has a series of that SeriesInstanceUID"
        raise ConfigError("--series", found, "Check the UID and the input.")
    return kept


def _choose(
    study_uid: str, series: Sequence[DicomSeries], num_channels: int | None, options: DicomOptions
) -> list[StudyInput]:
    choice = choose_series(series, options.rule, options.modality)
    if num_channels is not None and num_channels > 1:
        found = f"a DICOM series is one channel, and the model takes {num_channels}"
        choice = Choice((), found, _CHANNELS_REMEDY)
    if choice.refusal is not None:
        refusal = f"{choice.refusal}. {choice.remedy}"
        return [StudyInput(hashed_name(options.salt, study_uid), tuple(series), refusal)]
    return [
        StudyInput(hashed_name(options.salt, one.uid, one.part), (one,), _refusal(one))
        for one in choice.chosen
    ]


def _refusal(series: DicomSeries) -> str | None:
    if series.refusal is None:
        return None
    return str(StudyError(series.label, series.refusal, series.remedy))


def _damaged(scan: DicomScan, salt: bytes) -> list[StudyInput]:
    return _refused(scan.damaged, salt, lambda files: f"{scan.damage(files)}. {UNREADABLE_REMEDY}")


def _refused(
    files: Iterable[Path], salt: bytes, why: Callable[[Sequence[Path]], str]
) -> list[StudyInput]:
    """Return a refused study for each folder of some files."""
    by_folder: dict[Path, list[Path]] = {}
    for path in files:
        by_folder.setdefault(path.absolute().parent, []).append(path)
    return [
        StudyInput(hashed_name(salt, str(folder)), (members[0],), why(members))
        for folder, members in by_folder.items()
    ]
