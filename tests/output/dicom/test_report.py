import shutil
import subprocess

import highdicom
import pytest
from pydicom import dcmread

from pipeline.errors import PipelineError
from pipeline.output.dicom import Algorithm, DicomOutputConfig
from pipeline.output.dicom import report as module
from pipeline.output.dicom.report import Measured, write_report
from pipeline.output.dicom.segmentation import write_segmentation
from tests.output.dicom.series import SECRET, read_by_itk

CONFIG = DicomOutputConfig()
VOLUMES_ML = {"liver": 1 / 3, "lesion": 1234.5, "odd one": 1e-9, "absent": 0.0}


@pytest.fixture
def written(make_series, images, algorithm, tmp_path):
    """Write a segmentation; return it and the files of its source."""
    files = make_series(images, "MR")
    write_segmentation(read_by_itk(files), files, algorithm, tmp_path / "seg.dcm", CONFIG)
    return tmp_path / "seg.dcm", files


def test_highdicom_finds_each_volume_and_its_segment(written, algorithm, tmp_path):
    segmentation, files = written
    write_report(Measured(VOLUMES_ML), files, segmentation, algorithm, tmp_path / "sr.dcm", CONFIG)
    report = highdicom.sr.srread(tmp_path / "sr.dcm")
    groups = report.content.get_volumetric_roi_measurement_groups()
    described = {item.TrackingUID: item for item in dcmread(segmentation).SegmentSequence}
    found = {}
    for group in groups:
        segment = described[group.tracking_uid]
        assert group.tracking_identifier == segment.TrackingID
        assert group.finding_type.value == segment.SegmentedPropertyTypeCodeSequence[0].CodeValue
        (volume,) = group.get_measurements()
        assert volume.name.meaning == "Volume"
        assert (volume.unit.value, volume.unit.scheme_designator) == ("ml", "UCUM")
        found[segment.SegmentLabel] = volume.value
        assert group.referenced_segment.source_series_for_segmentation is not None
    assert found == {"liver": 0.333333, "lesion": 1234.5, "odd one": 0.0, "absent": 0.0}


def test_a_label_that_the_volume_cuts_is_marked(written, algorithm, tmp_path):
    segmentation, files = written
    whole, cut = tmp_path / "whole.dcm", tmp_path / "cut.dcm"
    for path, names in ((whole, ()), (cut, ("liver", "lesion"))):
        measured = Measured(VOLUMES_ML, names)
        write_report(measured, files, segmentation, algorithm, path, CONFIG)
    groups = highdicom.sr.srread(cut).content.get_volumetric_roi_measurement_groups()
    found = {
        group.finding_type.meaning: [
            each.name.meaning for each in group.get_qualitative_evaluations()
        ]
        for group in groups
    }
    marked = [name for name, said in found.items() if "Extends beyond the imaged volume" in said]
    assert sorted(marked) == ["Lesion", "Liver"]
    assert dcmread(whole).SOPInstanceUID != dcmread(cut).SOPInstanceUID


def test_what_a_report_says_of_itself(written, algorithm, tmp_path):
    segmentation, files = written
    write_report(Measured(VOLUMES_ML), files, segmentation, algorithm, tmp_path / "sr.dcm", CONFIG)
    report, source = dcmread(tmp_path / "sr.dcm"), dcmread(files[0])
    assert (report.CompletionFlag, report.VerificationFlag) == ("COMPLETE", "UNVERIFIED")
    assert report.PreliminaryFlag == "PRELIMINARY"
    assert report.SeriesNumber == CONFIG.series_number + 1
    procedure = [
        item.ConceptCodeSequence[0].CodeMeaning
        for item in report.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeValue == "121058"
    ]
    assert procedure == ["MRI unspecified body region"]
    assert (report.PatientName, report.PatientID) == ("Müller^Anna", "id 17")
    assert report.StudyInstanceUID == source.StudyInstanceUID
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    references = {
        item.ReferencedSOPInstanceUID
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    sources = {dcmread(file).SOPInstanceUID for file in files}
    assert references == {*sources, dcmread(segmentation).SOPInstanceUID}
    assert SECRET.encode() not in (tmp_path / "sr.dcm").read_bytes()


def test_the_same_report_has_the_same_uid(written, algorithm, tmp_path):
    segmentation, files = written
    uids = []
    for index, volumes_ml in enumerate([VOLUMES_ML, VOLUMES_ML, VOLUMES_ML | {"liver": 1.0}]):
        path = tmp_path / f"{index}.dcm"
        write_report(Measured(volumes_ml), files, segmentation, algorithm, path, CONFIG)
        uids.append(dcmread(path).SOPInstanceUID)
    assert uids[0] == uids[1] != uids[2]


def test_sites_say_the_side(written, algorithm, tmp_path):
    segmentation, files = written
    write_report(Measured(VOLUMES_ML), files, segmentation, algorithm, tmp_path / "sr.dcm", CONFIG)
    groups = highdicom.sr.srread(
        tmp_path / "sr.dcm"
    ).content.get_volumetric_roi_measurement_groups()
    sites = {group.finding_type.meaning: group.finding_sites for group in groups}
    (kidney,) = sites["Lesion"]
    assert (kidney.value.meaning, kidney.laterality.meaning) == ("Kidney", "Left")
    assert not sites["Liver"]


def test_modifiers_that_are_no_side(algorithm):
    hippocampus = {
        "type": ["5366008", "SCT", "Hippocampus"],
        "type_modifier": ["255549009", "SCT", "Anterior"],
    }
    (site,) = module._sites(type(algorithm.codes["liver"]).model_validate(hippocampus))
    assert site.topographical_modifier.meaning == "Anterior"
    assert site.laterality is None


def test_another_segmentation_is_refused(written, make_series, images, algorithm, tmp_path):
    segmentation, files = written
    target = tmp_path / "sr.dcm"
    fewer = Algorithm("toy", "ab", {"liver": 1})
    with pytest.raises(PipelineError, match="its segments are not the labels"):
        write_report(Measured({"liver": 1.0}), files, segmentation, fewer, target, CONFIG)
    with pytest.raises(ValueError, match="for the algorithm's labels"):
        write_report(Measured({"liver": 1.0}), files, segmentation, algorithm, target, CONFIG)
    others = make_series(images)
    with pytest.raises(PipelineError, match=r"^seg\.dcm: the segmentation is of another series"):
        write_report(Measured(VOLUMES_ML), others, segmentation, algorithm, target, CONFIG)
    assert not target.exists()


def test_the_validator_finds_no_error(written, algorithm, tmp_path):
    if shutil.which("dciodvfy") is None:
        pytest.skip("no dciodvfy: install dicom3tools")
    segmentation, files = written
    measured = Measured(VOLUMES_ML, {"liver"})
    write_report(measured, files, segmentation, algorithm, tmp_path / "sr.dcm", CONFIG)
    command = ["dciodvfy", tmp_path / "sr.dcm"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = (checked.stdout + checked.stderr).splitlines()
    assert "ComprehensiveSR" in lines
    assert [line for line in lines if line.startswith("Error")] == []
