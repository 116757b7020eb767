import nibabel as nib
import numpy as np
import pytest
import torch
from pydicom import dcmread

from pipeline.archive.cohort_segmenter import CohortSegmenter, source_series_of
from pipeline.cohort import SegmentOptions
from tests.archive.studies import make_segmentation, make_study
from tests.cohort.conftest import build_model


@pytest.fixture
def segment(tmp_path):
    return CohortSegmenter(build_model(), tmp_path / "out", SegmentOptions(), torch.device("cpu"))


@pytest.fixture
def folder(tmp_path):
    """A pulled study; of a volume, so that any model takes it."""
    path = tmp_path / "out" / ".trivox" / "incoming" / "study" / "series" / "a.nii.gz"
    path.parent.mkdir(parents=True)
    image = np.random.default_rng(0).normal(size=(12, 14, 10)).astype(np.float32)
    nib.save(nib.Nifti1Image(image, np.diag([1.5, 1, 2, 1])), path)
    return path.parent.parent


@pytest.fixture
def segmentation(tmp_path):
    _, (series_uid,) = make_study(tmp_path / "sent")
    slices = [dcmread(path) for path in sorted((tmp_path / "sent").rglob("*.dcm"))]
    return make_segmentation(slices), series_uid


def test_names_the_product_and_the_series_it_was_made_from(segment, folder, segmentation, tmp_path):
    dataset, series_uid = segmentation
    product = tmp_path / "out" / "a_seg.dcm"
    dataset.save_as(product)
    (result,) = segment(folder)
    assert (tmp_path / "out" / "a_seg.nii.gz").is_file()
    assert (result.status, result.case, result.products) == ("done", "a", (product,))
    assert result.series_uid == series_uid


def test_a_mask_without_a_segmentation_has_no_product(segment, folder):
    (result,) = segment(folder)
    assert (result.status, result.products) == ("done", ())


def test_a_study_that_is_refused_has_a_reason(segment, folder):
    path = next(folder.rglob("*.nii.gz"))
    path.write_bytes(path.read_bytes()[:100])
    (result,) = segment(folder)
    assert result.status == "rejected"
    assert result.reason


def test_a_folder_with_nothing_to_segment_is_rejected_without_its_name(segment, tmp_path):
    (tmp_path / "study").mkdir()
    (result,) = segment(tmp_path / "study")
    assert (result.status, result.series_uid) == ("rejected", "")
    assert "no studies found" in result.reason
    assert str(tmp_path) not in result.reason


def test_a_segmentation_that_names_no_series_says_so(segmentation, tmp_path):
    dataset, _ = segmentation
    del dataset.ReferencedSeriesSequence
    dataset.save_as(tmp_path / "seg.dcm")
    assert source_series_of([tmp_path / "seg.dcm"]) == ""
    assert source_series_of([]) == ""
