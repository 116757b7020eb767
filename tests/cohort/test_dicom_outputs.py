import nibabel as nib
import numpy as np
import pytest
import torch
from pydicom import dcmread
from pydicom.uid import MRImageStorage

from pipeline.cohort import SegmentOptions, StudyInput, find_studies, segment_cohort
from pipeline.dicom_out import DicomOutputConfig
from pipeline.report import read_provenance
from tests.dicom_files import make_series, positions_along, save_series, voxels

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
