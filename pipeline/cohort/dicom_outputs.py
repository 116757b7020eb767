"""Write what DICOM archives take of a study, if it came from one."""

from pipeline.cohort.outputs import Outputs
from pipeline.cohort.study_input import StudyInput
from pipeline.dicom_out import Algorithm, DicomOutputConfig, write_report, write_segmentation
from pipeline.report import volumes_ml
from pipeline.study import DicomSeries
from pipeline.volume import LabelMap


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
    frames = {frame for _, frame in series.frames}
    write_segmentation(label_map, series.files, algorithm, path, config, frames)
    volumes = volumes_ml(label_map.labels_IJK, label_map.grid, algorithm.labels)
    write_report(volumes, series.files, path, algorithm, outputs.dicom_report, config)
