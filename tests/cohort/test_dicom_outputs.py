import shutil
import sys

import highdicom
import nibabel as nib
import numpy as np
import pytest
import torch
from pydicom import dcmread
from pydicom.uid import MRImageStorage

from pipeline.cohort import SegmentOptions, segment_cohort
from pipeline.inputs import find_studies
from pipeline.output import read_provenance
from pipeline.output.dicom import Algorithm, DicomOutputConfig
from pipeline.output.dicom.write import write_dicom
from pipeline.output.places import Outputs
from pipeline.study import StudyInput, find_series
from pipeline.volume import LabelMap
from tests.dicom_files import (
    make_enhanced,
    make_series,
    positions_along,
    save,
    save_series,
    voxels,
)

CPU = torch.device("cpu")


@pytest.fixture
def dicom(tmp_path):
    """A study of one MR series of 8 slices."""
    slices = make_series(
        voxels(8, 16, 16), positions_along(count=8), Modality="MR", SOPClassUID=MRImageStorage
    )
    save_series(slices, tmp_path / "in")
    (study,) = find_studies([tmp_path / "in"], num_channels=1, out=None)
    return study


@pytest.fixture
def segment(tmp_path, model):
    def run(study, **how):
        options = SegmentOptions(dicom=DicomOutputConfig(**how))
        return segment_cohort([study], model, tmp_path / "out", options, CPU)

    return run


def test_the_segmentation_has_the_voxels_of_the_mask_and_the_report_its_volumes(
    dicom, segment, tmp_path
):
    (row,) = segment(dicom).rows
    assert row.status == "done", row.reason
    out, case = tmp_path / "out", dicom.case
    labels = nib.load(out / f"{case}_seg.nii.gz").get_fdata()
    segmentation = dcmread(out / f"{case}_seg.dcm")
    bits = np.unpackbits(np.frombuffer(segmentation.PixelData, np.uint8))
    assert labels.any()
    assert bits.sum() == np.count_nonzero(labels)
    assert dcmread(out / f"{case}_report.dcm").Modality == "SR"
    recorded = read_provenance(out / f"{case}_seg.json").outputs
    assert set(recorded) == {"mask", "dicom_segmentation", "dicom_report"}


def test_what_is_complete_stays_and_another_kind_is_made_anew(dicom, segment, tmp_path):
    segment(dicom)
    assert segment(dicom).num_skipped == 1
    assert segment(dicom, kind="labelmap").num_skipped == 0
    path = tmp_path / "out" / f"{dicom.case}_seg.dcm"
    assert dcmread(path).SegmentationType == "LABELMAP"
    path.write_bytes(path.read_bytes()[:-1])
    assert segment(dicom, kind="labelmap").num_skipped == 0


def draw(mask, number):
    image = nib.load(mask)
    labels_IJK = np.zeros(image.shape, np.uint8)
    labels_IJK.ravel()[:number] = 1
    nib.save(nib.Nifti1Image(labels_IJK, image.affine), mask)


def test_outputs_follow_a_corrected_mask(dicom, segment, tmp_path):
    """New objects for each mask, the same ones for the same mask; what was there is kept."""
    out = tmp_path / "out"
    seg, report = (out / f"{dicom.case}_{name}.dcm" for name in ("seg", "report"))
    segment(dicom)
    uids = [dcmread(seg).SOPInstanceUID]
    for number in (24, 7):
        draw(out / f"{dicom.case}_seg.nii.gz", number)
        (row,) = segment(dicom).rows
        assert row.status == "corrected"
        found = dcmread(seg)
        assert np.unpackbits(np.frombuffer(found.PixelData, np.uint8)).sum() == number
        assert {item.SegmentAlgorithmType for item in found.SegmentSequence} == {"SEMIAUTOMATIC"}
        assert "corrected by hand" in dcmread(report).SeriesDescription
        evidence = dcmread(report).CurrentRequestedProcedureEvidenceSequence[0]
        assert found.SOPInstanceUID in str(evidence)
        uids.append(found.SOPInstanceUID)
        stamp = seg.stat().st_mtime_ns
        segment(dicom)
        assert seg.stat().st_mtime_ns == stamp
    assert len(set(uids)) == 3
    kept = sorted((out / ".trivox" / "replaced").rglob(seg.name))
    assert {dcmread(path).SOPInstanceUID for path in kept} == set(uids[:2])
    assert len(list((out / ".trivox" / "replaced").rglob(report.name))) == 2
    report.unlink()
    segment(dicom)
    assert report.exists()
    assert dcmread(seg).SOPInstanceUID == uids[2]


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
def test_outputs_follow_a_corrected_mask_though_nobody_asks_for_them(
    dicom, segment, tmp_path, model, kind
):
    out = tmp_path / "out"
    seg, mask = (out / f"{dicom.case}_seg.{ending}" for ending in ("dcm", "nii.gz"))
    segment(dicom, kind=kind)
    first = dcmread(seg)
    draw(mask, 24)
    (row,) = segment_cohort([dicom], model, out, SegmentOptions(), CPU).rows
    assert row.status == "corrected"
    found = highdicom.seg.segread(seg)
    assert np.count_nonzero(found.pixel_array) == 24
    assert found.SegmentationType == first.SegmentationType
    assert found.SOPInstanceUID != first.SOPInstanceUID
    (kept,) = (out / ".trivox" / "replaced").rglob(seg.name)
    assert dcmread(kept).SOPInstanceUID == first.SOPInstanceUID
    theirs = found.SOPInstanceUID.encode()
    seg.write_bytes(theirs)
    draw(mask, 7)
    segment_cohort([dicom], model, out, SegmentOptions(), CPU)
    assert seg.read_bytes() == theirs, "not ours"


def test_an_experts_mask_has_outputs_that_say_so(dicom, segment, tmp_path):
    segment(dicom)
    out = tmp_path / "out"
    mask = out / f"{dicom.case}_seg.nii.gz"
    draw(mask, 9)
    drawn = mask.read_bytes()
    shutil.rmtree(out)
    out.mkdir()
    mask.write_bytes(drawn)
    (row,) = segment(dicom).rows
    assert row.status == "corrected"
    found = dcmread(out / f"{dicom.case}_seg.dcm")
    assert {item.SegmentAlgorithmType for item in found.SegmentSequence} == {"MANUAL"}
    assert "drawn by hand" in found.SeriesDescription


def test_other_files_have_no_dicom_outputs(segment, tmp_path, save_volume):
    study = StudyInput("a", (save_volume(tmp_path / "a.nii.gz"),))
    assert segment(study).all_done
    assert not list((tmp_path / "out").glob("*.dcm"))
    assert segment(study).num_skipped == 1


def test_a_source_that_outputs_cannot_refer_to_is_rejected_and_leaves_nothing(segment, tmp_path):
    slices = make_series(
        voxels(8, 16, 16), positions_along(count=8), Modality="US",
        SOPClassUID="1.2.840.10008.5.1.4.1.1.6.1",
    )  # fmt: skip
    save_series(slices, tmp_path / "in")
    (study,) = find_studies([tmp_path / "in"], num_channels=1, out=None)
    (row,) = segment(study).rows
    assert row.status == "rejected"
    assert not list((tmp_path / "out").glob("dicom_*"))


def test_a_source_of_one_frame_a_file_is_rejected_before_the_network_runs(
    segment, tmp_path, monkeypatch
):
    """An output refers to frames of one file: an enhanced series of many files has none."""
    for index, place in enumerate(positions_along(count=4)):
        frame = make_enhanced(voxels(1), [place], modality="MR", instance=index + 1)
        save(frame, tmp_path / "in" / f"{index}")
    (study,) = find_studies([tmp_path / "in"], num_channels=1, out=None)
    assert study.refusal is None
    monkeypatch.setattr("pipeline.cohort.stages.read_study", lambda *_, **__: pytest.fail("read"))
    (row,) = segment(study).rows
    assert row.status == "rejected"
    assert "4 multi-frame files" in row.reason
    assert not list((tmp_path / "out").glob("dicom_*"))


def test_each_volume_of_a_multi_frame_file_has_its_segmentation(tmp_path):
    """Two b-values in turns, as an enhanced diffusion series has them."""
    made = make_enhanced(
        voxels(8),
        [place for place in positions_along(count=4) for _ in "ab"],
        each=lambda index: {"MRDiffusionSequence": {"DiffusionBValue": 800.0 * (index % 2)}},
        modality="MR",
    )
    save(made, tmp_path / "one")
    algorithm = Algorithm("toy", "0" * 64, {"organ": 1})
    for number, series in enumerate(find_series([tmp_path / "one"])):
        outputs = Outputs(tmp_path, f"case{number}")
        label_map = LabelMap(np.ones(series.grid.shape, np.uint8), series.grid.affine)
        study = StudyInput("case", (series,))
        write_dicom(study, label_map, outputs, algorithm, DicomOutputConfig())
        assert outputs.dicom_report.exists()
        segmentation = highdicom.seg.segread(outputs.dicom_segmentation)
        frames = [
            groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
            for groups in segmentation.PerFrameFunctionalGroupsSequence
        ]
        assert sorted(frames) == [number + 1, number + 3, number + 5, number + 7]


def test_the_package_that_writes_them_is_missed_before_the_network_runs(
    dicom, segment, tmp_path, monkeypatch
):
    expected = "--dicom-seg: the package highdicom is missing. Install it: pip install highdicom."
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "highdicom", None)
        (row,) = segment(dicom).rows
    assert (row.status, row.reason) == ("rejected", expected)
    assert not list((tmp_path / "out").glob("*_seg.*"))
    segment(dicom)
    draw(tmp_path / "out" / f"{dicom.case}_seg.nii.gz", 24)
    monkeypatch.setitem(sys.modules, "highdicom", None)
    assert segment(dicom).rows[0].reason == expected
