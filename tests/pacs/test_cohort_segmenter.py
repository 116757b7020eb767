import nibabel as nib
import numpy as np
import pytest
import torch
from pydicom import dcmread
from pydicom.uid import MRImageStorage

from pipeline.cohort import Request, SegmentOptions
from pipeline.cohort.own_process import Here
from pipeline.cohort.request import Job
from pipeline.inputs import DicomOptions
from pipeline.output.dicom import DicomOutputConfig
from pipeline.pacs import Patience, PatientArchive, Query, RoundTrip, run_round_trip
from pipeline.pacs.segmenter import CohortSegmenter
from tests.cohort.conftest import build_model
from tests.dicom_files import make_series, positions_along, save_series, voxels
from tests.pacs.fake import FakeArchive

CPU = torch.device("cpu")


class Counting(Here):
    """Workers that count how often they are started and closed."""

    started = closed = 0

    def __init__(self, job):
        super().__init__(job)
        type(self).started += 1

    def close(self):
        type(self).closed += 1
        return super().close()


@pytest.fixture
def workers():
    Counting.started = Counting.closed = 0
    return Counting


@pytest.fixture
def segment(tmp_path, workers):
    model, out = build_model(), tmp_path / "out"
    options = SegmentOptions(dicom=DicomOutputConfig())
    request = Request(model.description, model.sha256, out, options)
    dicom = DicomOptions(modality="other", salt=b"s")
    return CohortSegmenter(request, dicom, lambda: workers(Job.of(model, CPU, out, options)))


@pytest.fixture
def pull(tmp_path):
    """Return what puts a study of one series or more where it would be pulled to."""

    def put(name, *, study=1, num_series=1, count=8):
        folder = tmp_path / "out" / ".trivox" / "incoming" / name
        for series in range(1, num_series + 1):
            slices = make_series(
                voxels(count, 16, 16),
                positions_along(count=count),
                study=study,
                series=series,
                Modality="MR",
                SOPClassUID=MRImageStorage,
            )
            save_series(slices, folder / str(series))
        return folder

    return put


def test_products_are_dicom_and_name_the_series(segment, pull, tmp_path):
    (result,) = segment(pull("a"))
    assert result.status == "done"
    assert [path.suffix for path in result.products] == [".dcm", ".dcm"]
    assert [dcmread(path).Modality for path in result.products] == ["SEG", "SR"]
    source = dcmread(next((tmp_path / "out").rglob("incoming/a/1/*")))
    assert result.series_uid == source.SeriesInstanceUID
    assert result.case.startswith("dicom_")


def test_a_study_that_was_done_keeps_its_products(segment, pull):
    folder = pull("a")
    (first,) = segment(folder)
    before = first.products[0].read_bytes()
    (second,) = segment(folder)
    assert second == first
    assert second.products[0].read_bytes() == before


def test_the_model_is_loaded_once_for_all_studies(segment, pull, workers):
    for number in (1, 2):
        (result,) = segment(pull(f"study {number}", study=number))
        assert result.status == "done"
    assert (workers.started, workers.closed) == (1, 0)
    segment.close()
    assert (workers.started, workers.closed) == (1, 1)


def test_an_interruption_ends_the_workers(segment, pull, workers, monkeypatch):
    monkeypatch.setattr(workers, "wait", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        segment(pull("a"))
    assert (workers.started, workers.closed) == (1, 1)


def test_a_study_without_a_choice_is_rejected_and_blames_no_series(segment, pull):
    (result,) = segment(pull("a", num_series=2))
    assert (result.status, result.series_uid, result.products) == ("rejected", "", ())
    assert "2 series could be meant" in result.reason


def test_a_folder_with_nothing_to_segment_is_rejected_without_its_name(segment, tmp_path):
    (tmp_path / "study").mkdir()
    (result,) = segment(tmp_path / "study")
    assert (result.status, result.series_uid) == ("rejected", "")
    assert "no studies found" in result.reason
    assert str(tmp_path) not in result.reason


def test_a_corrected_mask_is_pushed_once_as_a_new_series(segment, pull, tmp_path):
    """Also of a study that was pushed before; what the archive has stays as it is."""
    fake = FakeArchive(path for path in pull("a").rglob("*") if path.is_file())

    def go():
        source, target = (PatientArchive(fake, Patience(2, 0.001)) for _ in "ab")
        trip = RoundTrip(source, target, Query(), None, tmp_path / "out", "recipe")
        return run_round_trip(trip, segment)

    assert go().counts == {"pushed": 1}
    assert len(fake.pushes) == 2
    before = dict(fake.stored)
    (mask,) = (tmp_path / "out").glob("*_seg.nii.gz")
    image = nib.load(mask)
    labels_IJK = np.zeros(image.shape, np.uint8)
    labels_IJK[2:5, 3:7, 1:3] = 1
    nib.save(nib.Nifti1Image(labels_IJK, image.affine), mask)
    drawn = mask.read_bytes()
    assert go().counts == {"pushed": 1}
    new = [fake.stored[key][1] for key in fake.pushes[2:]]
    assert sorted(dataset.Modality for dataset in new) == ["SEG", "SR"]
    (seg,) = (dataset for dataset in new if dataset.Modality == "SEG")
    assert np.unpackbits(np.frombuffer(seg.PixelData, np.uint8)).sum() == 24
    assert "corrected by hand" in seg.SeriesDescription
    old_series = {key.series_uid for key in before}
    assert not old_series & {dataset.SeriesInstanceUID for dataset in new}
    assert {key: fake.stored[key] for key in before} == before
    assert mask.read_bytes() == drawn
    summary = go()
    assert (summary.num_skipped, summary.counts, len(fake.pushes)) == (1, {"pushed": 1}, 4)
