from pathlib import Path

from pipeline.cohort.request import SegmentOptions
from pipeline.output.dicom import DicomOutputConfig
from pipeline.output.places import Outputs
from pipeline.study import StudyInput, find_series
from tests.dicom_files import make_series, save_series, voxels

OUT = Path("out")


def test_a_study_must_have_what_was_asked_for():
    study, outputs = StudyInput("a", (Path("a.nii"),)), Outputs(OUT, "a")
    assert SegmentOptions().wanted(study, OUT) == {"mask": outputs.mask}
    assert SegmentOptions(probabilities=True, pictures=True).wanted(study, OUT) == {
        "mask": outputs.mask,
        "probabilities": outputs.probabilities,
        "picture": outputs.picture,
    }


def test_what_several_processes_may_take_is_shared():
    assert SegmentOptions(max_bytes=9).shared_by(2).max_bytes == 4
    assert SegmentOptions().shared_by(2) == SegmentOptions()


def test_only_dicom_studies_have_dicom_outputs(tmp_path):
    save_series(make_series(voxels()), tmp_path)
    (series,) = find_series([tmp_path])
    options, outputs = SegmentOptions(dicom=DicomOutputConfig()), Outputs(OUT, "a")
    assert options.wanted(StudyInput("a", (series,)), OUT) == {
        "mask": outputs.mask,
        "dicom_segmentation": OUT / "a_seg.dcm",
        "dicom_report": OUT / "a_report.dcm",
    }
    file = StudyInput("a", (tmp_path / "a.nii",))
    assert options.wanted(file, OUT) == {"mask": outputs.mask}
