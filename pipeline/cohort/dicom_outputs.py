"""Write what DICOM archives take of a study, if it came from one, and say first if that can be."""

from pipeline.cohort.outputs import Outputs
from pipeline.cohort.study_input import StudyInput
from pipeline.dicom_out import (
    Algorithm,
    DicomOutputConfig,
    check_source,
    write_report,
    write_segmentation,
)
from pipeline.report import volumes_ml
from pipeline.study import DicomSeries
from pipeline.volume import LabelMap


def check_dicom(study: StudyInput) -> None:
    """Make sure that `write_dicom` can write a study, before any time is spent on it.

    Raises:
        StudyError: If its series is none that outputs can refer to.
    """
    series = study.sources[0]
    if isinstance(series, DicomSeries) and series.grid is not None:
        check_source(series.files, series.grid, _frames_of(series))


def write_dicom(
    study: StudyInput,
    label_map: LabelMap,
    outputs: Outputs,
    algorithm: Algorithm,
    config: DicomOutputConfig,
) -> None:
    """Write the segmentation, and the report of its volumes; nothing for other files than DICOM.

    Args:
        study: The series of its first channel is the one to refer to.
        label_map: On its grid.
        outputs: Where to.
        algorithm: What made the labels.
        config: How to write them.

    Raises:
        StudyError: If the series is none that outputs can refer to.
        PipelineError: If a file, read back, does not hold what was to be written.
    """
    series = study.sources[0]
    if not isinstance(series, DicomSeries):
        return
    path = outputs.dicom_segmentation
    write_segmentation(label_map, series.files, algorithm, path, config, _frames_of(series))
    volumes = volumes_ml(label_map.labels_IJK, label_map.grid, algorithm.labels)
    write_report(volumes, series.files, path, algorithm, outputs.dicom_report, config)


def _frames_of(series: DicomSeries) -> set[int]:
    return {frame for _, frame in series.frames}
