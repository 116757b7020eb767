"""Open a DICOM volume as any other image: its header is checked, its voxels wait."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.errors import StudyError, packages_needed
from pipeline.study.checks import check_affine, check_num_voxels
from pipeline.study.dicom.scan import UNREADABLE_REMEDY, files_in, scan_dicom
from pipeline.study.dicom.series import DicomSeries, SeriesRule, Source, choose_series
from pipeline.study.dicom.values import REMEDY, count_patients
from pipeline.study.header import header_from_grid
from pipeline.study.study import ImageFile, StudyConfig

_FOLDER_REMEDY = "Give a folder that holds one series alone."


def open_dicom(series: DicomSeries, config: StudyConfig) -> ImageFile:
    """Return a volume whose voxels are still to be read.

    A volume that is sheared by a tilted gantry is passed on as it is, with a warning: the stages
    work along the axes of its grid, and the mask lies on that grid again.

    Raises:
        StudyError: If the series is no volume, or has more voxels than `config` allows.
    """
    if series.grid is None:
        raise StudyError(series.label, series.refusal or "is no volume", series.remedy)
    # Files' names can tell the patient; errors use this one.
    shown = Path(series.label)
    shape_IJKN = (*series.grid.shape, 1)
    check_num_voxels(shown, shape_IJKN, config)
    tilt = check_affine(shown, series.grid.affine)
    derived = ("it is derived from other images (DERIVED, SECONDARY)",) * series.is_derived
    header = header_from_grid(series.grid)
    return ImageFile(
        path=shown,
        shape_IJKN=shape_IJKN,
        affine=header.get_sform(),
        header=header,
        warnings=(*series.warnings, *derived, *tilt),
        load=partial(_load, series),
        modality=series.modality,
    )


def _load(series: DicomSeries) -> npt.NDArray[np.float32]:
    with packages_needed(series.label):
        from pipeline.study.dicom.pixels import load_voxels
    return load_voxels(series)


def check_one_patient(case: str, sources: Sequence[Source]) -> None:
    """Refuse a study whose channels are series of different patients.

    Raises:
        StudyError: If they are, as far as this process read their headers.
    """
    count = count_patients(one.patient for one in sources if isinstance(one, DicomSeries))
    if count > 1:
        raise StudyError(case, f"its channels belong to {count} patients", REMEDY)


def find_volume(path: Path) -> DicomSeries:
    """Return the only volume in a folder of DICOM files, or in a DICOM file.

    Raises:
        StudyError: If there is none, or more than one.
    """
    # Folders can be called by the patient.
    where = "the folder" if path.is_dir() else path.name
    scan = scan_dicom(files_in([path]))
    if scan.damaged:
        raise StudyError(where, scan.damage(scan.damaged), UNREADABLE_REMEDY)
    if not scan.series:
        remedy = f"{_FOLDER_REMEDY} Of another volume, name the file."
        raise StudyError(where, "there is no DICOM image", remedy)
    studies = {one.study_uid for one in scan.series}
    if len(studies) > 1:
        found = f"there are images of {len(studies)} DICOM studies"
        raise StudyError(where, found, _FOLDER_REMEDY)
    choice = choose_series(scan.series, SeriesRule(), "other")
    if choice.refusal is not None:
        raise StudyError(where, choice.refusal, _FOLDER_REMEDY)
    return choice.chosen[0]
