"""Write what DICOM archives take of a study, if it came from one, and say first if that can be."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from pipeline.errors import packages_needed
from pipeline.output import incomplete_labels, volumes_ml
from pipeline.output.dicom import Algorithm, DicomOutputConfig
from pipeline.output.places import Outputs
from pipeline.study import DicomSeries
from pipeline.study.input import StudyInput
from pipeline.system.ownership import set_aside
from pipeline.volume import LabelMap


def check_dicom(study: StudyInput) -> None:
    """Make sure that `write_dicom` can write a study, before any time is spent on it.

    Raises:
        StudyError: If its series is none that outputs can refer to, or a package is missing.
    """
    series = study.sources[0]
    if isinstance(series, DicomSeries) and series.grid is not None:
        from pipeline.output.dicom.source import check_source

        _need_writer()
        check_source(series.files, series.grid, _frames_of(series))


def write_dicom(
    study: StudyInput,
    label_map: LabelMap,
    outputs: Outputs,
    algorithm: Algorithm,
    config: DicomOutputConfig,
    incomplete: Sequence[str] | None = None,
) -> None:
    """Write the segmentation, and the report of its volumes; nothing for other files than DICOM.

    Args:
        study: The series of its first channel is the one to refer to.
        label_map: On its grid.
        outputs: Where to.
        algorithm: What made the labels.
        config: How to write them.
        incomplete: Labels that do not lie within the volume as a whole; without, those that touch
            one of its ends.

    Raises:
        StudyError: If the series is none that outputs can refer to.
        PipelineError: If a file, read back, does not hold what was to be written.
    """
    series = study.sources[0]
    if not isinstance(series, DicomSeries):
        return
    from pipeline.output.dicom.report import Measured, write_report
    from pipeline.output.dicom.segmentation import write_segmentation

    path = outputs.dicom_segmentation
    write_segmentation(label_map, series.files, algorithm, path, config, _frames_of(series))
    volumes = volumes_ml(label_map.labels_IJK, label_map.grid, algorithm.labels)
    if incomplete is None:
        incomplete = incomplete_labels(label_map.labels_IJK, algorithm.labels)
    measured = Measured(volumes, frozenset(incomplete))
    write_report(measured, series.files, path, algorithm, outputs.dicom_report, config)


def write_corrected_dicom(
    study: StudyInput,
    label_map: LabelMap,
    outputs: Outputs,
    algorithm: Algorithm,
    config: DicomOutputConfig,
    *,
    is_drawn: bool,
) -> None:
    """Write segmentation and report of a mask that counts in the place of the model's.

    Their UIDs follow from the mask, so they are new ones, and the same ones for the same mask. What
    lies there of another mask is set aside.

    Args:
        study: As for `write_dicom`, like what follows.
        label_map: What a person made.
        outputs: Where to.
        algorithm: What made the mask that was corrected.
        config: How to write them.
        is_drawn: Whether the mask is none that the model made first.

    Raises:
        StudyError: As `write_dicom`, like `PipelineError`.
        OSError: If what lies there cannot be moved.
    """
    series = study.sources[0]
    if not isinstance(series, DicomSeries):
        return
    from pipeline.output.dicom.segmentation import segmentation_uid

    _need_writer()
    by_hand = replace(algorithm, maker="person" if is_drawn else "person with model")
    uid = segmentation_uid(label_map, series.files, by_hand, config, _frames_of(series))
    paths = outputs.dicom_segmentation, outputs.dicom_report
    if _value(paths[0], "SOPInstanceUID") == uid and _value(paths[1], "SOPInstanceUID"):
        return
    for path in paths:
        if os.path.lexists(path):
            set_aside(path, outputs.folder)
    write_dicom(study, label_map, outputs, by_hand, config)


def config_of(path: Path) -> DicomOutputConfig:
    """Return how a segmentation was written, as far as it can be read."""
    return DicomOutputConfig(
        kind="labelmap" if _value(path, "SegmentationType") == "LABELMAP" else "binary"
    )


def _need_writer() -> None:
    with packages_needed("--dicom-seg"):
        import highdicom  # noqa: F401


def _value(path: Path, keyword: str) -> str:
    """Return one value of a file; empty if it is no DICOM file that can be read."""
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    with suppress(OSError, InvalidDicomError, ValueError, NotImplementedError):
        return str(dcmread(path, specific_tags=[keyword]).get(keyword, ""))
    return ""


def _frames_of(series: DicomSeries) -> set[int]:
    return {frame for _, frame in series.frames}
