"""What reading back refuses: files that were changed after they had been written well."""

import pytest
from pydicom import dcmread

from pipeline.errors import PipelineError
from pipeline.output.dicom import DicomOutputConfig
from pipeline.output.dicom.read_back import check_report, check_segmentation
from pipeline.output.dicom.report import Measured, write_report
from pipeline.output.dicom.segmentation import write_segmentation
from tests.output.dicom.series import read_by_itk

VOLUMES_ML = {"liver": 1.5, "lesion": 0.25, "odd one": 2.0, "absent": 0.0}


@pytest.fixture
def written(make_series, images, algorithm, tmp_path):
    """Write a segmentation; return its path and the label map."""
    files = make_series(images)
    label_map = read_by_itk(files)
    write_segmentation(label_map, files, algorithm, tmp_path / "seg.dcm", DicomOutputConfig())
    return tmp_path / "seg.dcm", label_map


def flip_first_bit(output):
    output.PixelData = bytes([output.PixelData[0] ^ 1]) + output.PixelData[1:]


def swap_two_positions(output):
    first, second = output.PerFrameFunctionalGroupsSequence[:2]
    first.PlanePositionSequence, second.PlanePositionSequence = (
        second.PlanePositionSequence,
        first.PlanePositionSequence,
    )


def move_a_frame(output):
    (position,) = output.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence
    position.ImagePositionPatient[0] += 0.5


def give_two_segments_one_frame(output):
    frames = output.PerFrameFunctionalGroupsSequence
    number = frames[-1].SegmentIdentificationSequence[0].ReferencedSegmentNumber
    frames[0].SegmentIdentificationSequence[0].ReferencedSegmentNumber = number
    frames[0].PlanePositionSequence = frames[-1].PlanePositionSequence
    size = len(output.PixelData)
    output.PixelData = bytes([255] * size)


def name_another_segment(output):
    output.PerFrameFunctionalGroupsSequence[0].SegmentIdentificationSequence[
        0
    ].ReferencedSegmentNumber = 9


def rename_a_segment(output):
    output.SegmentSequence[0].SegmentLabel = "spleen"


def drop_a_frame(output):
    del output.PerFrameFunctionalGroupsSequence[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (flip_first_bit, "1 voxels differ"),
        (swap_two_positions, "its frames do not fit"),
        (move_a_frame, "its frames do not fit"),
        (give_two_segments_one_frame, "its frames do not fit"),
        (name_another_segment, "its frames do not fit"),
        (rename_a_segment, "its segments are not the labels"),
        (drop_a_frame, "its frames do not fit"),
    ],
)
def test_changed_segmentations(written, algorithm, change, message):
    path, label_map = written
    output = dcmread(path)
    change(output)
    output.save_as(path)
    with pytest.raises(PipelineError, match=rf"^name: read back after writing, {message}\. Noth"):
        check_segmentation(path, label_map, algorithm, "name")


def test_changed_reports(written, algorithm, tmp_path):
    path, _ = written
    files = sorted((tmp_path / "source").iterdir())
    report = tmp_path / "report.dcm"
    write_report(
        Measured(VOLUMES_ML, {"liver"}), files, path, algorithm, report, DicomOutputConfig()
    )
    uid = str(dcmread(path).SOPInstanceUID)
    # Segments are numbered by label value: liver 2, odd one 4, lesion 9, absent 300.
    expected = {1: (1.5, True), 2: (2.0, False), 3: (0.25, False), 4: (0.0, False)}
    check_report(report, expected, uid, "name")
    for wrong, other in [
        (expected | {4: (0.1, False)}, uid),
        (expected | {1: (1.5, False)}, uid),
        (expected, "1.2"),
        ({1: (1.5, True)}, uid),
    ]:
        with pytest.raises(PipelineError, match=r"^name: .*the volumes differ"):
            check_report(report, wrong, other, "name")
