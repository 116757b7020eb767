"""Read a study or a label map from files, or say why not.

No other program reads along, so that what was checked is what is read. LPS becomes RAS+ here, once.

Axes: I, J, K = voxel axes in the order of the file; N = volumes in one file; C = channels.
"""

import errno
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import StudyError
from pipeline.study.checks import (
    check_affine,
    check_extent,
    check_intensities,
    check_num_voxels,
    compare_shear,
)
from pipeline.study.dicom import (
    DicomSeries,
    Source,
    check_one_patient,
    find_volume,
    is_dicom,
    open_dicom,
    renew,
)
from pipeline.study.header import header_from_grid
from pipeline.study.itk import LPS_TO_RAS
from pipeline.study.meta import read_meta
from pipeline.study.mgh import open_mgh
from pipeline.study.nifti import open_nifti, voxels_of
from pipeline.study.nrrd import read_nrrd
from pipeline.study.stored import Stamp, read_unchanged, stamp
from pipeline.study.study import (
    MGH_SUFFIXES,
    NIFTI_SUFFIXES,
    TEXT_SUFFIXES,
    VOLUME_SUFFIXES,
    ImageFile,
    Study,
    StudyConfig,
)
from pipeline.study.text_header import read_text_header
from pipeline.system.text import check_ordinary
from pipeline.volume import Grid, LabelMap, Volume, smallest_label_type


def open_text_volume(path: Path, config: StudyConfig) -> ImageFile:
    """Read and check the header of an NRRD or MetaImage file; no voxels are read.

    Raises:
        StudyError: If the file is of another kind, torn, or describes no volume in space.
    """
    text = read_text_header(path)
    # What is not finite is found by the checks.
    with np.errstate(all="ignore"):
        volume = (read_nrrd if text.is_nrrd else read_meta)(text)
    check_num_voxels(path, volume.shape_IJKN, config)
    volume.stored.check(volume.num_bytes)
    # Adding zero turns -0.0 into 0.0, so that equal affines have equal bits.
    with np.errstate(all="ignore"):
        affine = np.asarray(LPS_TO_RAS * volume.affine_lps + 0.0, dtype=np.float64)
    warnings = check_affine(path, affine)
    header = header_from_grid(Grid(volume.shape_IJKN[:3], affine))
    return ImageFile(
        path=path,
        shape_IJKN=volume.shape_IJKN,
        affine=header.get_sform(),
        header=header,
        warnings=(*volume.warnings, *warnings),
        load=partial(volume.stored.voxels, volume.shape_IJKN, volume.dtype),
    )


LABEL_TOLERANCE = 1e-3
"""Largest distance from a whole number that a label stored as float may have."""

LABEL_MAX = 2**31 - 1
"""Largest label that the types of common tools hold."""

_DEFAULT_CONFIG = StudyConfig()


def read_study(
    sources: Sequence[Source],
    *,
    case: str,
    num_channels: int,
    config: StudyConfig = _DEFAULT_CONFIG,
) -> Study:
    """Read the channels of one study, all on the voxels of the first.

    All headers are read and checked before any voxels are, so that a wrong study costs no memory.
    Affine: sform if its code is positive, else qform, else the spacing alone with a warning.
    Channels whose axes are stored in another order or direction are put in that of the first.

    Args:
        sources: One file or DICOM series per channel, or one file that holds all channels as
            volumes. A folder must hold a single DICOM volume.
        case: The study's name in outputs and errors.
        num_channels: Number of channels wanted.
        config: What to do with odd input.

    Returns:
        The study, in native voxel order, as float32, with its affine in mm.

    Raises:
        StudyError: If a file cannot be read, or is no image that can be segmented.
    """
    sources = tuple(map(resolve_source, sources))
    return read_unchanged(
        case,
        partial(_stamp, sources),
        lambda: _read_study(tuple(map(current_source, sources)), case, num_channels, config),
    )


def _stamp(sources: Sequence[Source]) -> Stamp | None:
    """Return the stamp of all files of sources; reading says what is wrong with a header."""
    files: list[Path] = []
    for source in sources:
        try:
            files += source_files(source)
        except StudyError:
            return None
    return stamp(files)


def _read_study(
    sources: Sequence[Source], case: str, num_channels: int, config: StudyConfig
) -> Study:
    check_one_patient(case, sources)
    files = tuple(open_volume(source, config) for source in sources)
    _check_channels(files, case, num_channels)
    first = files[0]
    check_extent(first.path, first.grid)
    files = (first, *(file.placed_on(first) for file in files[1:]))
    warnings = [_named(file, text, files) for file in files for text in file.warnings]
    modalities = {file.modality for file in files}
    channels = []
    for file in files:
        data_NIJK, found = _read_channels(file, config)
        channels.append(data_NIJK)
        warnings += [_named(file, text, files) for text in found]
    data_CIJK = channels[0] if len(channels) == 1 else np.concatenate(channels)
    return Study(
        case=case,
        volume=Volume(data_CIJK, first.affine),
        header=first.header,
        paths=tuple(file.path for file in files),
        warnings=tuple(warnings),
        modality=modalities.pop() if len(modalities) == 1 else None,
    )


def extent_of(sources: Sequence[Source]) -> tuple[int, float]:
    """Return how many voxels the sources of a study hold, and their volume in mm^3, by the headers.

    Both summed over channels, and 0 if one source is no volume: reading it will say why.
    """
    try:
        files = [open_volume(source) for source in sources]
    except (StudyError, OSError, ValueError):
        return 0, 0.0
    voxels = [file.grid.num_voxels * file.num_volumes for file in files]
    volumes = (n * file.grid.voxel_volume_mm3 for n, file in zip(voxels, files, strict=True))
    return sum(voxels), sum(volumes)


def read_label_map(path: Path, config: StudyConfig = _DEFAULT_CONFIG) -> LabelMap:
    """Read a label map; labels stored as floats are accepted if they are whole numbers.

    Raises:
        StudyError: If the file cannot be read, holds several volumes, or a value is no label.
    """
    path = Path(path)
    return read_unchanged(path.name, lambda: _stamp([path]), lambda: _read_labels(path, config))


def _read_labels(path: Path, config: StudyConfig) -> LabelMap:
    file = open_volume(path, config)
    check_extent(file.path, file.grid)
    if file.num_volumes != 1:
        raise StudyError(
            file.path.name,
            f"label map has {file.num_volumes} volumes, not 1",
            "Merge them into one volume with one value per label.",
        )
    values_IJK = file.load()[..., 0]
    _check_labels(file.path, values_IJK)
    label_type = smallest_label_type(int(np.rint(values_IJK.max())))
    if values_IJK.dtype.kind == "f":
        values_IJK = np.rint(values_IJK)
    return LabelMap(values_IJK.astype(label_type), file.affine, file.warnings)


def open_volume(source: Source, config: StudyConfig = _DEFAULT_CONFIG) -> ImageFile:
    """Read and check the header of a volume; its voxels wait.

    Args:
        source: A file, a series from `find_series`, or a folder or file that holds one DICOM
            volume alone.
        config: What to do with odd input.

    Raises:
        StudyError: If there is no such file, or its header describes no volume in space.
    """
    file = _open(resolve_source(source), config)
    return replace(file, warnings=(*file.warnings, *compare_shear(file.grid)))


def _open(source: Source, config: StudyConfig) -> ImageFile:
    if isinstance(source, DicomSeries):
        return open_dicom(source, config)
    path, name = source, source.name.lower()
    _check_there(path)
    if name.endswith(".img"):
        found = "holds voxels alone"
        raise StudyError(path.name, found, f"Give their header, {path.stem}.hdr.")
    if not name.endswith(VOLUME_SUFFIXES):
        found = f"'{path.suffix}' is no file type that can be read"
        raise StudyError(path.name, found, f"Give one of {', '.join(VOLUME_SUFFIXES)}.")
    if path.stat().st_size == 0:
        raise StudyError(path.name, "file is empty", "Copy or convert the file again.")
    if name.endswith(NIFTI_SUFFIXES):
        return open_nifti(path, config)
    if name.endswith(MGH_SUFFIXES):
        return open_mgh(path, config)
    return open_text_volume(path, config)


def _check_there(path: Path) -> None:
    try:
        check_ordinary(path)
    except FileNotFoundError:
        raise StudyError(path.name, "file does not exist", "Check the path.") from None
    except OSError as error:
        is_kind = error.errno == errno.EINVAL
        found = f"it is {error.strerror}" if is_kind else f"cannot be opened ({error.strerror})"
        raise StudyError(path.name, found, "Check the path.") from error


def resolve_source(source: Source) -> Source:
    """Return the DICOM volume that a folder or a DICOM file holds; other sources as they are.

    Raises:
        StudyError: If there is no volume in it, or more than one.
    """
    if isinstance(source, DicomSeries):
        return source
    is_volume = source.name.lower().endswith(VOLUME_SUFFIXES)
    if source.is_dir() or (source.is_file() and not is_volume and is_dicom(source)):
        return find_volume(source)
    return source


def current_source(source: Source) -> Source:
    """Return a source as `resolve_source` does, and a series by the headers that it has now.

    Raises:
        StudyError: As `resolve_source`, or if a series is none any more.
    """
    return renew(source) if isinstance(source, DicomSeries) else resolve_source(source)


def source_files(source: Source) -> tuple[Path, ...]:
    """Return the files that hold a source, in an order that follows from their content.

    Raises:
        StudyError: If it is a folder without a single DICOM volume, or a header without voxels.
    """
    source = resolve_source(source)
    return source.files if isinstance(source, DicomSeries) else (source, *voxel_files(source))


def voxel_files(path: Path) -> tuple[Path, ...]:
    """Return the files besides `path` that hold its voxels: a detached header has one.

    Raises:
        StudyError: If the header cannot be read, or takes its voxels from another folder.
    """
    name = path.name.lower()
    if name.endswith(TEXT_SUFFIXES):
        data_path = read_text_header(path).data_path
    elif name.endswith(".hdr"):
        data_path = voxels_of(path)
    else:
        return ()
    return () if data_path == path else (data_path,)


def _check_channels(files: Sequence[ImageFile], case: str, num_channels: int) -> None:
    if len(files) == 1 and files[0].num_volumes == num_channels:
        return
    wanted = num_channels if len(files) == 1 else 1
    for file in files:
        if file.num_volumes > 1:
            raise StudyError(
                file.path.name,
                f"holds {file.num_volumes} volumes, {wanted} wanted",
                "Split it into one file per volume, and give those that are the channels.",
            )
    if len(files) != num_channels:
        raise StudyError(
            case,
            f"{len(files)} channel(s) given, {num_channels} wanted",
            "Give one file per channel, in the model's order.",
        )


def _named(file: ImageFile, text: str, files: Sequence[ImageFile]) -> str:
    return text if len(files) == 1 else f"{file.path.name}: {text}"


def _read_channels(
    file: ImageFile, config: StudyConfig
) -> tuple[npt.NDArray[np.float32], list[str]]:
    voxels_IJKN = file.load()
    with np.errstate(over="ignore", invalid="ignore"):
        data_NIJK = np.moveaxis(voxels_IJKN.astype(np.float32, copy=False), 3, 0)
    warnings: list[str] = []
    for index, voxels_IJK in enumerate(data_NIJK):
        checked_IJK, found = check_intensities(file.path, voxels_IJK, config)
        if checked_IJK is not voxels_IJK:
            data_NIJK[index] = checked_IJK
        warnings += found
    return data_NIJK, warnings


def _check_labels(path: Path, values_IJK: npt.NDArray[Any]) -> None:
    """Refuse values that are no labels, naming the first."""
    lowest, highest = values_IJK.min(), values_IJK.max()
    bad: Any = None
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        bad = values_IJK[~np.isfinite(values_IJK)][0]
    elif lowest < -LABEL_TOLERANCE:
        bad = lowest
    elif highest > LABEL_MAX:
        bad = highest
    elif values_IJK.dtype.kind == "f":
        fractional = np.abs(values_IJK - np.rint(values_IJK)) > LABEL_TOLERANCE
        bad = values_IJK[fractional][0] if fractional.any() else None
    if bad is not None:
        raise StudyError(
            path.name,
            f"holds the value {bad:g}, which is no label",
            "Labels are whole numbers from 0 up; give the label map, not an image.",
        )
